"""Whom httpx's clients trust is read once: each would read it anew, which is most of the work of a short request."""

from __future__ import annotations

import functools
import os
import ssl
from typing import Any

from httpx._transports import default

_create = default.create_ssl_context


@functools.cache
def _trusting(cert: Any, trust_env: bool, file: str | None, directory: str | None) -> ssl.SSLContext:
    """file, directory: what the environment names instead of what all trust."""
    return _create(True, cert, trust_env)


def _shared(verify: ssl.SSLContext | str | bool = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
    if verify is not True:
        return _create(verify, cert, trust_env)
    return _trusting(cert, trust_env, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


def read_once() -> None:
    """For all clients of this process."""
    default.create_ssl_context = _shared
