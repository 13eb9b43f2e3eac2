"""What terminates HTTP is told to do with connections and headers: Ray Serve's proxy, or an ingress behind HAProxy.

Serve has no options for it. It calls `guard` in the proxy's process before the server starts, where the environment's
`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names it; which protocol the server speaks is looked up in uvicorn's table.
No settings come that way, so what a proxy must know is in the environment, too.
"""

from __future__ import annotations

import logging
import os
import resource
import ssl

import uvicorn.config
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import HTTP_PROTOCOLS

import monitoring
from deployments.certificate import Certificate
from deployments.cluster import haproxy
from deployments.cluster.haproxy_log import HaproxyLog
from deployments.cluster.node_logs import configure_logs
from deployments.cluster.proxy_settings import ProxySettings, variables
from deployments.cluster.renewal import LOOK_S, Renewal
from deployments.http.connection import GuardedProtocol
from deployments.http.middleware import MAX_REQUEST_ID_CHARS, REQUEST_ID_HEADER
from deployments.http.refusals import Refusals
from deployments.settings import Settings
from monitoring.connections import ConnectionMetrics

logger = logging.getLogger(__name__)

CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"

GRPC = "RAY_SERVE_PROXY_USE_GRPC"
"""Proxies ask ingresses over gRPC, as those ask replicas: half the work of Ray's objects for each piece of a stream."""

HEALTH = "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S"
"""One that fails three times in a row is started anew: by itself, Serve would take half a minute to see it."""

ONE_LOOP = ("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP")
"""Our code and Serve's run in one event loop, which none of ours holds: a third of a single stream's processor time was
what passing from one thread to the next takes."""

OTHER_FILES = 512
"""Files that a proxy opens beside its clients' connections, and those of clients that are being turned away."""

# Serve lets whoever sends these change its time-outs, its routing, and whether it looks for clients that have left.
_SERVES_OWN = frozenset({"x-request-timeout-seconds", "x-request-disconnect-disabled", "serve-multiplexed-model-id"})


def environment(settings: Settings, front: dict[str, str] | None = None) -> dict[str, str]:
    """Of Ray's processes, for their proxies to be guarded, to log and to count as the settings say.

    front: what `haproxy.environment` gives where HAProxy stands in front; Serve's own proxies do if not given.
    """
    ours = {CALLBACK: _guard_path(), GRPC: "1", HEALTH: "2", **dict.fromkeys(ONE_LOOP, "0")}
    return {**(front or {haproxy.ENABLE: "0"}), **ours, **variables(settings)}


def guards() -> bool:
    """Whether what terminates HTTP before this process is guarded, as its environment says."""
    return os.environ.get(CALLBACK) == _guard_path()


def _guard_path() -> str:
    return f"{__name__}.{guard.__name__}"


def guard() -> list[Middleware]:
    """Serve's callback: middleware for who terminates HTTP: its proxy, or an ingress process behind HAProxy.

    Raises ValidationError where the environment's settings are none.
    """
    # Not above: what starts Ray asks this module for the environment that Ray is then imported in.
    import ray

    settings = ProxySettings()
    if not (behind_haproxy := _in_ingress()):
        node = ray.get_runtime_context().get_node_id()[:12] if ray.is_initialized() else None
        configure_logs(settings, process="proxy", node=node)
    GuardedProtocol.refusals = Refusals(_metrics(settings, counts_already=behind_haproxy))
    limits = settings.api
    most = connections_possible(limits.max_connections)
    if most < limits.max_connections:
        logger.warning("max_connections=%d, but files suffice for %d: see ulimit -n", limits.max_connections, most)
    GuardedProtocol.fronted = behind_haproxy
    GuardedProtocol.limits = limits.model_copy(update={"max_connections": most})
    HTTP_PROTOCOLS["auto"] = f"{GuardedProtocol.__module__}:{GuardedProtocol.__qualname__}"
    if behind_haproxy:
        HaproxyLog(haproxy.files(ray.get_runtime_context().get_node_id()), GuardedProtocol.refusals.note).listen()
    if settings.certificate is not None:
        if haproxy.enabled():
            haproxy.renewal(settings.certificate, ray.get_runtime_context().get_node_id()).begin()
        else:
            show(settings.certificate)
    return [Middleware(HeaderMiddleware, scheme="http" if settings.certificate is None else "https")]


def show(certificate: Certificate, look_every_s: float = LOOK_S) -> None:
    """Have servers of this process, which Serve tells to speak TLS, do so as ours do, and take renewed certificates."""

    def context(*_: object, **__: object) -> ssl.SSLContext:
        first = newest = certificate.context()

        def take() -> bool:
            nonlocal newest
            newest = certificate.context()
            return True

        def turn_to_newest(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            connection.context = newest

        first.sni_callback = turn_to_newest  # of every connection, whether its client names a server or not
        Renewal(certificate, take, look_every_s).begin()
        return first

    uvicorn.config.create_ssl_context = context


def _in_ingress() -> bool:
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        serve.get_replica_context()
    except RayServeException:
        return False
    return True


def _metrics(settings: ProxySettings, counts_already: bool) -> ConnectionMetrics | None:
    """counts_already: this process keeps its metrics somewhere, as the application has set it up."""
    from deployments.cluster.node_metrics import node_directory

    if settings.served_model_name is None:
        return None
    if not counts_already:
        try:
            monitoring.init(node_directory(settings.metrics_dir))
        except OSError as error:  # it serves all the same
            logger.warning("the metrics of this proxy are not seen: %s", error)
            monitoring.init(None)
    return ConnectionMetrics(settings.served_model_name)


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

    What is its own business is dropped, and so are ids that cannot be sent back, or are long. scheme: that clients
    speak, if only to who stands in front.
    """

    def __init__(self, app: ASGIApp, scheme: str = "http") -> None:
        self.app = app
        self.scheme = scheme

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["scheme"] = self.scheme
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
