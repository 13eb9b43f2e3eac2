"""Whom httpx's clients trust is read once: each would read it anew, which is most of the work of a short request."""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Sequence
from typing import Any

from httpx._transports import default

_PROTOCOLS = ["http/1.1"]

_create = default.create_ssl_context


@functools.cache
def _trusting(cert: Any, trust_env: bool, file: str | None, directory: str | None) -> ssl.SSLContext:
    """file, directory: what the environment names instead of what all trust.

    httpcore sets the protocols anew for each connection. In one context of many threads another one's handshake would
    read them while they are freed, and its server a message that it cannot decode.
    """
    context = _create(True, cert, trust_env)
    context.set_alpn_protocols(_PROTOCOLS)
    context.set_alpn_protocols = _are_set  # type: ignore[method-assign]
    return context


def _are_set(protocols: Sequence[str]) -> None:
    if list(protocols) != _PROTOCOLS:
        raise NotImplementedError(f"a context of all clients, which speak {_PROTOCOLS}, not {protocols}")


def _shared(verify: ssl.SSLContext | str | bool = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
    if verify is not True:
        return _create(verify, cert, trust_env)
    return _trusting(cert, trust_env, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


def read_once() -> None:
    """For all clients of this process."""
    default.create_ssl_context = _shared
