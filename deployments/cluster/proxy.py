"""What Ray Serve's proxy, which terminates HTTP, is told to do with connections and headers.

Serve has no options for it. It calls `guard` in the proxy's process before the server starts, where the environment's
`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names it; which protocol the server speaks is looked up in uvicorn's table.
No settings come that way, so what a proxy must know is in the environment, too.
"""

from __future__ import annotations

import logging
import resource
from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import HTTP_PROTOCOLS

import monitoring
from deployments.cluster.node_logs import configure_logs
from deployments.http.connection import GuardedProtocol
from deployments.http.middleware import MAX_REQUEST_ID_CHARS, REQUEST_ID_HEADER
from deployments.http.refusals import Refusals
from deployments.limits import ApiLimits
from deployments.settings import ENV_PREFIX, NESTED, Settings
from monitoring.connections import ConnectionMetrics
from monitoring.logs import LogFormat, LogLevel

logger = logging.getLogger(__name__)

CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"

GRPC = "RAY_SERVE_PROXY_USE_GRPC"
"""Proxies ask ingresses over gRPC, as those ask replicas: half the work of Ray's objects for each piece of a stream."""

OTHER_FILES = 512
"""Files that a proxy opens beside its clients' connections, and those of clients that are being turned away."""

_LIMITS = ("max_head_bytes", "head_timeout_s", "keep_alive_timeout_s", "write_timeout_s", "max_connections")
_SETTINGS = ("metrics_dir", "log_level", "log_format", "log_file", "served_model_name")

VARIABLES = tuple(ENV_PREFIX + name.upper() for name in (*(f"api{NESTED}{limit}" for limit in _LIMITS), *_SETTINGS))
"""Of the environment, that a proxy reads."""

# Serve lets whoever sends these change its time-outs, its routing, and whether it looks for clients that have left.
_SERVES_OWN = frozenset({"x-request-timeout-seconds", "x-request-disconnect-disabled", "serve-multiplexed-model-id"})


class ProxySettings(BaseSettings):
    """The settings that a proxy keeps to, by their own names. Without a model's name it counts nothing."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter=NESTED, env_ignore_empty=True, extra="ignore"
    )

    api: ApiLimits = ApiLimits()
    served_model_name: str | None = None
    metrics_dir: Path | None = None
    log_level: LogLevel = "info"
    log_format: LogFormat = "auto"
    log_file: Path | None = None
    log_text: bool = False


def environment(settings: Settings) -> dict[str, str]:
    """Of Ray's processes, for their proxies to be guarded, to log and to count as the settings say."""
    named = settings.model_copy(update={"served_model_name": settings.model_id})
    said = [getattr(named.api, name) for name in _LIMITS] + [getattr(named, name) for name in _SETTINGS]
    variables = {name: str(value) for name, value in zip(VARIABLES, said, strict=True) if value is not None}
    return {CALLBACK: f"{__name__}.{guard.__name__}", GRPC: "1", **variables}


def guard() -> list[Middleware]:
    """Serve's callback: middleware for the proxy. Raises ValidationError where the environment's settings are none."""
    # Not above: what starts Ray asks this module for the environment that Ray is then imported in.
    import ray

    from deployments.cluster.node_metrics import node_directory

    settings = ProxySettings()
    node = ray.get_runtime_context().get_node_id()[:12] if ray.is_initialized() else None
    configure_logs(settings, process="proxy", node=node)
    metrics = None
    if settings.served_model_name is not None:
        try:
            monitoring.init(node_directory(settings.metrics_dir))
        except OSError as error:  # it serves all the same
            logger.warning("the metrics of this proxy are not seen: %s", error)
            monitoring.init(None)
        metrics = ConnectionMetrics(settings.served_model_name)
    GuardedProtocol.refusals = Refusals(metrics)
    limits = settings.api
    most = connections_possible(limits.max_connections)
    if most < limits.max_connections:
        logger.warning("max_connections=%d, but files suffice for %d: see ulimit -n", limits.max_connections, most)
    GuardedProtocol.limits = limits.model_copy(update={"max_connections": most})
    HTTP_PROTOCOLS["auto"] = f"{GuardedProtocol.__module__}:{GuardedProtocol.__qualname__}"
    return [Middleware(HeaderMiddleware)]


def connections_possible(wanted: int) -> int:
    """Of `wanted` connections, as many as this process may have files for. Raises its own limit as far as it may."""
    needed = wanted + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - OTHER_FILES))


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
