"""What Serve's proxies are given: the protocol, limits, a log and metrics, all by their environment."""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn.config
from starlette.middleware import Middleware
from starlette.types import Receive, Scope, Send
from uvicorn.config import HTTP_PROTOCOLS

import monitoring
from deployments.cluster import node_metrics, proxy, proxy_settings
from deployments.http.connection import GuardedProtocol
from deployments.http.refusals import Refusals
from deployments.limits import ApiLimits
from deployments.settings import Settings
from tests.support.certificates import make_certificate
from tests.support.log_lines import captured

Guarded = Callable[[Settings], list[Middleware]]


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    """Has Serve guard a proxy, whose environment these settings have made, in this process."""
    from ray.serve._private.http_util import validate_http_proxy_callback_return
    from ray.serve._private.utils import call_function_from_import_path

    monkeypatch.setattr(GuardedProtocol, "limits", ApiLimits())
    monkeypatch.setattr(GuardedProtocol, "refusals", Refusals())
    monkeypatch.setattr(GuardedProtocol, "fronted", True)
    monkeypatch.setattr(uvicorn.config, "create_ssl_context", uvicorn.config.create_ssl_context)
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", HTTP_PROTOCOLS["auto"])
    monkeypatch.setattr(node_metrics, "node_directory", lambda directory: directory)

    def guard(settings: Settings) -> list[Middleware]:
        environment = proxy.environment(settings)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        hook = call_function_from_import_path(environment[proxy.CALLBACK])
        middlewares: list[Middleware] = validate_http_proxy_callback_return(hook)
        return middlewares

    with captured():
        yield guard
        for handler in logging.getLogger().handlers:
            handler.close()
    monitoring.init(None)


def test_serves_proxy_takes_the_protocol_and_the_limits(guarded: Guarded) -> None:
    from uvicorn import Config

    limits = ApiLimits(
        max_head_bytes=5000, head_timeout_s=2.5, keep_alive_timeout_s=7, write_timeout_s=11.5, max_connections=17
    )
    assert not proxy.guards()
    (middleware,) = guarded(Settings(api=limits))
    assert proxy.guards()
    assert not GuardedProtocol.fronted
    assert middleware.cls is proxy.HeaderMiddleware
    assert GuardedProtocol.limits == limits
    config = Config(lambda: proxy, factory=True)
    config.load()
    assert config.http_protocol_class is GuardedProtocol


def test_it_logs_and_counts_where_the_settings_say(guarded: Guarded, tmp_path: Path) -> None:
    metrics, log = tmp_path / "metrics", tmp_path / "log"
    settings = Settings(model="a/b", metrics_dir=metrics, log_file=log, log_format="json")
    guarded(settings)
    GuardedProtocol.refusals.note("head_too_large", "192.0.2.1")
    monitoring.logs.flush()
    assert '"event":"connection.refused","reason":"head_too_large","client":"192.0.2.1","process":"proxy"' in (
        log.read_text()
    )
    series = 'starcoder_connections_refused_total{model="a/b",reason="head_too_large"} 1.0'
    assert series in monitoring.render(metrics).decode()


def test_it_serves_where_its_metrics_cannot_be_kept(guarded: Guarded, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert guarded(Settings(metrics_dir=tmp_path / "file" / "metrics"))
    GuardedProtocol.refusals.note("invalid_http", None)


def test_every_variable_is_one_that_it_reads() -> None:
    known = {f"STARCODER_{name.upper()}" for name in proxy_settings.ProxySettings.model_fields}
    known |= {f"STARCODER_API__{name.upper()}" for name in ApiLimits.model_fields}
    assert set(proxy_settings.VARIABLES) <= known


@pytest.mark.parametrize(
    ("wanted", "files", "possible", "raised"),
    [
        (4096, (20_000, 20_000), 4096, None),
        (4096, (1024, 524_288), 4096, 4096 + proxy.OTHER_FILES),
        (4096, (1024, resource.RLIM_INFINITY), 4096, 4096 + proxy.OTHER_FILES),
        (4096, (resource.RLIM_INFINITY, resource.RLIM_INFINITY), 4096, None),
        (4096, (1024, 2048), 2048 - proxy.OTHER_FILES, 2048),
        (10, (256, 256), 1, 256),
    ],
)
def test_there_are_files_for_all_connections(
    monkeypatch: pytest.MonkeyPatch, wanted: int, files: tuple[int, int], possible: int, raised: int | None
) -> None:
    """A server without them does not even accept those that it would turn away."""
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: files)
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: given.append(pair))
    assert proxy.connections_possible(wanted) == possible
    assert given == ([] if raised is None else [(raised, files[1])])


async def test_the_application_knows_what_clients_speak(guarded: Guarded, tmp_path: Path) -> None:
    """Who stands in front has taken TLS off, or is this process: in either case the link is https."""
    seen: list[str] = []

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["scheme"])

    own = make_certificate(tmp_path)
    for settings in (Settings(), Settings(ssl_certfile=own.chain, ssl_keyfile=own.key)):
        (middleware,) = guarded(settings)
        app = middleware.cls(serve, *middleware.args, **middleware.kwargs)
        await app({"type": "http", "scheme": "http", "headers": []}, None, None)  # type: ignore[arg-type]
    assert seen == ["http", "https"]


async def test_serve_gets_headers_that_it_can_read() -> None:
    """Its proxy takes every value for UTF-8, and answers what is none with a traceback in the log."""
    seen: list[tuple[bytes, bytes]] = []

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(scope["headers"])

    headers = [
        (b"x-session-id", b"fenster-\xfc"),
        (b"x-request-id", b"a" * 129),
        (b"x-request-timeout-seconds", b"1"),
        (b"serve_multiplexed_model_id", b"x"),
        (b"x-request-disconnect-disabled", b"?1"),
        (b"accept", b"*/*"),
    ]
    await proxy.HeaderMiddleware(serve)({"type": "http", "headers": headers}, None, None)  # type: ignore[arg-type]
    assert seen == [(b"x-session-id", "fenster-ü".encode()), (b"accept", b"*/*")]
