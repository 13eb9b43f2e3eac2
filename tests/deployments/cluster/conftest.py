"""HAProxy with the configuration that Ray makes for it, and in front of a server."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deployments.certificate import Certificate
from deployments.cluster import haproxy
from deployments.command.ports import free_port
from tests.support.haproxy_front import Front, Rendered, Running, answer
from tests.support.http_server import serving
from tests.support.waiting import wait_until


@pytest.fixture
def rendered(tmp_path: Path) -> Rendered:
    """What Ray writes: one ingress at a port, another proxy for when there is none."""

    def render(host: str = "127.0.0.1", port: int = 8000, ingress: int = 30000, metrics: bool = True) -> str:
        from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
        from ray.serve.config import HTTPOptions

        config = HAProxyConfig(
            http_options=HTTPOptions(host=host, port=port),
            is_head=True,
            socket_path=str(tmp_path / "a"),
            server_state_base=str(tmp_path),
            server_state_file=str(tmp_path / "s"),
            metrics_socket_path=str(tmp_path / "m"),
            metrics_enabled=metrics,
            retry_on=haproxy.environment("x")["RAY_SERVE_HAPROXY_RETRY_ON"],
        )
        backend = BackendConfig(
            name="http-starcoder",
            app_name="starcoder",
            path_prefix="/",
            servers=[ServerConfig(name="ingress", host="127.0.0.1", port=ingress)],
            fallback_server=ServerConfig(name="fallback", host="127.0.0.1", port=1),
        )
        path = tmp_path / "c"
        api = HAProxyApi(config, {backend.name: backend}, config_file_path=str(path))
        api._generate_config_file_internal()
        return path.read_text()

    return render


@pytest.fixture
def front(rendered: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """HAProxy as Ray starts it, in front of one ingress, with these limits, and a certificate or none."""
    started: list[Running] = []

    def start(behind: int, certificate: Certificate | None = None, **limits: float) -> Running:
        if certificate is not None:
            monkeypatch.setenv("STARCODER_SSL_CERTFILE", str(certificate.chain))
            monkeypatch.setenv("STARCODER_SSL_KEYFILE", str(certificate.key))
        for name, value in limits.items():
            monkeypatch.setenv(f"STARCODER_API__{name.upper()}", str(value))
        port = free_port()
        rendered(port=port, ingress=behind, metrics=False)
        log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        log.bind(str(tmp_path / haproxy.LOG_SOCKET))
        command = haproxy.installed()
        assert command is not None
        with open(tmp_path / "out", "wb") as out:
            process = subprocess.Popen([command, "-db", "-f", str(tmp_path / "c")], stdout=out, stderr=out)
        running = Running(process, port, log, "https" if certificate else "http")
        started.append(running)

        def up() -> bool:
            assert process.poll() is None, (tmp_path / "out").read_text()
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{running.url}/x", timeout=5, verify=False).status_code == 200
            return False

        wait_until(up, lambda: (tmp_path / "out").read_text())
        return running

    yield start
    for running in started:
        running.process.kill()
        running.process.wait()
        running.log.close()


@pytest.fixture
def behind() -> Iterator[int]:
    """The port of an ingress."""
    with serving(answer) as url:
        yield int(url.rpartition(":")[2])
