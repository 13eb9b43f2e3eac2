"""What Ray Serve's proxy, which terminates HTTP, is told to do with connections and headers.

Serve has no options for it. It calls `guard` in the proxy's process before the server starts, where the environment's
`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names it; which protocol the server speaks is looked up in uvicorn's table.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import HTTP_PROTOCOLS

from deployments.http.connection import GuardedProtocol
from deployments.http.middleware import MAX_REQUEST_ID_CHARS, REQUEST_ID_HEADER
from deployments.limits import ApiLimits
from deployments.settings import environment_limits

# Serve lets whoever sends these change its time-outs, its routing, and whether it looks for clients that have left.
_SERVES_OWN = frozenset({"x-request-timeout-seconds", "x-request-disconnect-disabled", "serve-multiplexed-model-id"})


def environment(limits: ApiLimits) -> dict[str, str]:
    """Of Ray's processes, for their proxies to be guarded with these limits."""
    names = ("max_head_bytes", "head_timeout_s", "keep_alive_timeout_s")
    said = {f"STARCODER_API__{name.upper()}": str(getattr(limits, name)) for name in names}
    return {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{__name__}.{guard.__name__}", **said}


def guard() -> list[Middleware]:
    """Serve's callback: middleware for the proxy. Raises ValidationError where the environment's limits are none."""
    GuardedProtocol.limits = environment_limits()
    HTTP_PROTOCOLS["auto"] = f"{GuardedProtocol.__module__}:{GuardedProtocol.__qualname__}"
    return [Middleware(HeaderMiddleware)]


class HeaderMiddleware:
    """Header fields as Serve can read them: it takes every value for UTF-8, and sends ids of requests back as they are.

    What is its own business is dropped, and so are ids that cannot be sent back, or are long.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["headers"] = [(name, _as_utf8(value)) for name, value in scope["headers"] if _serves(name, value)]
        await self.app(scope, receive, send)


def _as_utf8(value: bytes) -> bytes:
    try:
        value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1").encode()
    return value


def _serves(name: bytes, value: bytes) -> bool:
    if name == REQUEST_ID_HEADER.encode():
        return len(value) <= MAX_REQUEST_ID_CHARS and value.decode("latin-1").isprintable()
    return name.decode("latin-1").replace("_", "-") not in _SERVES_OWN
