"""The context that all clients of tests share."""

from __future__ import annotations

import ssl
from unittest import mock

import httpx
import pytest
from httpx._transports import default


def test_no_connection_changes_what_others_read() -> None:
    """A TLS handshake in another thread may be under way."""
    context = default.create_ssl_context()
    assert default.create_ssl_context() is context
    with mock.patch.object(ssl.SSLContext, "set_alpn_protocols") as changed, httpx.Client() as client:
        assert client._transport._pool._ssl_context is context  # type: ignore[attr-defined]
        context.set_alpn_protocols(["http/1.1"])
    changed.assert_not_called()


def test_who_wants_another_protocol_is_told() -> None:
    with pytest.raises(NotImplementedError, match="h2"):
        default.create_ssl_context().set_alpn_protocols(["http/1.1", "h2"])
