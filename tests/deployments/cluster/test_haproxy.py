"""The configuration that Ray makes for HAProxy, adapted: by HAProxy itself, and by real connections to it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deployments.cluster import haproxy
from deployments.cluster.haproxy_log import HaproxyLog
from deployments.cluster.proxy_settings import ProxySettings
from deployments.command.ports import free_port
from deployments.http import arrival
from deployments.limits import ApiLimits
from tests.support.haproxy_front import Front, Rendered, answer
from tests.support.http_server import serving
from tests.support.waiting import eventually, wait_until

COMMAND = haproxy.installed()


def test_the_command_is_installed() -> None:
    """It comes with the package, and HAProxy with Ray: nothing has to be installed by hand."""
    assert COMMAND is not None


def adapt(text: str, directory: Path, **limits: float) -> str:
    return haproxy.adapt(text, ProxySettings(api=ApiLimits(**limits)).front, directory, 100)  # type: ignore[arg-type]


def test_nothing_listens_but_the_front_itself(rendered: Rendered, tmp_path: Path) -> None:
    before = rendered(host="127.0.0.1", port=8123)
    assert before.count("bind ") == 3  # else Ray has become careful, and this has nothing to do
    after = adapt(before, tmp_path)
    assert [line.strip() for line in after.splitlines() if line.strip().startswith("bind ")] == ["bind 127.0.0.1:8123"]
    assert f"stats socket {tmp_path / 'a'} mode 600 " in after
    (most, *_) = re.findall(r"^    maxconn (\d+)$", after, re.MULTILINE)
    assert int(most) == 100 + 12 + 16, "those beyond the limit are told so"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_the_front_alone_listens_where_the_server_does(rendered: Rendered, tmp_path: Path, host: str) -> None:
    """Ingress processes are on loopback then, and there HAProxy asks them."""
    settings = ProxySettings(host=host).front
    lines = haproxy.adapt(rendered(host="127.0.0.1", port=8123, ingress=30001), settings, tmp_path, 100).splitlines()
    assert [line.strip() for line in lines if line.strip().startswith("bind ")] == [f"bind {host}:8123"]
    assert any("server ingress 127.0.0.1:30001 " in line for line in lines)


def test_what_has_been_adapted_stays(rendered: Rendered, tmp_path: Path) -> None:
    once = adapt(rendered(), tmp_path)
    assert adapt(once, tmp_path) == once


@pytest.mark.parametrize("metrics", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "192.0.2.7"])
def test_haproxy_takes_it(rendered: Rendered, tmp_path: Path, host: str, metrics: bool) -> None:
    rendered(host=host, metrics=metrics)
    assert COMMAND is not None
    checked = subprocess.run([COMMAND, "-c", "-f", str(tmp_path / "c")], capture_output=True, text=True, timeout=60)
    assert (checked.returncode, "valid" in checked.stdout, "WARNING" in checked.stderr) == (0, True, False), (
        checked.stderr
    )


@pytest.mark.parametrize(
    ("host", "server"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("192.0.2.7", "192.0.2.7"), ("::1", "::1")],
)
def test_ingress_processes_are_asked_where_they_listen(
    rendered: Rendered, tmp_path: Path, host: str, server: str
) -> None:
    text = adapt(rendered(host=host, ingress=30001), tmp_path)
    assert f"server ingress {server}:30001 " in text


@pytest.mark.parametrize(
    "broken",
    [lambda text: text.replace("frontend http_frontend", "frontend other"), lambda text: text.replace(" mode 666", "")],
)
def test_another_template_is_refused(rendered: Rendered, tmp_path: Path, broken: Callable[[str], str]) -> None:
    with pytest.raises(haproxy.TemplateError):
        adapt(broken(rendered()), tmp_path)


@pytest.mark.parametrize(("files", "possible"), [(2048, 682), (512 + 9, 4), (512, 1), (10, 1), (10**6, 4096)])
def test_files_suffice_for_two_connections_each(files: int, possible: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that come above the limit, too: an eighth of them, and a few."""
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1, files))
    assert haproxy.connections_possible(4096) == possible
    assert possible == 1 or 2 * (possible + possible // 8) <= files - 512
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    assert haproxy.connections_possible(4096) == 4096


RAYS = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_BINARY_PATH": "/x",
    "RAY_SERVE_HAPROXY_NBTHREAD": "2",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "1",
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "86400",
    "RAY_SERVE_PORT_QUARANTINE_S": "150",
}
OF_A_SERVER = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "/own/c",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "/own/a",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "/own/s",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "/own/m",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "/own",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": "8501",
}


def test_what_ray_is_told_is_what_it_reads() -> None:
    """By names that Ray knows: it takes no offence at others."""
    from ray.serve._private import constants
    from ray.serve._private import haproxy as rays

    assert haproxy.environment("/x") == RAYS
    said = haproxy.environment("/x", directory=Path("/own"), fallback_port=8501, metrics=False)
    assert said == RAYS | OF_A_SERVER | {"RAY_SERVE_HAPROXY_METRICS_ENABLED": "0"}
    read = Path(constants.__file__).read_text() + Path(rays.__file__).read_text()
    assert [name for name in said if f'"{name}"' not in read] == []


def test_requests_come_to_the_ingress(front: Front, behind: int) -> None:
    running = front(behind)
    answered = httpx.get(f"{running.url}/v1/models", headers={"x-say": "hello"})
    assert (answered.status_code, answered.text) == (200, "hello")
    assert running.refused() == []  # it has its line already


def test_it_says_when_a_request_came_whatever_its_client_says(front: Front, behind: int) -> None:
    running = front(behind)
    before = time.time()
    for said in ({}, {arrival.FIELD: "1000000"}, {arrival.FIELD.upper(): "1000000"}):
        came = httpx.get(f"{running.url}/v1/models", headers={"x-show": arrival.FIELD, **said}).text
        assert before - 1 <= int(came) / 1e6 <= time.time() + 1


def test_without_an_ingress_the_answer_is_an_error_of_the_api(front: Front) -> None:
    with serving(answer) as url:
        running = front(int(url.rpartition(":")[2]))
    answered = httpx.get(f"{running.url}/v1/models", timeout=30)
    assert (answered.status_code, answered.json()["error"]["code"]) == (503, "engine_unavailable")
    assert int(answered.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("mode", "ours"), [(0o755, True), (0o700, True), (0o1777, True), (0o777, False), (0o775, False)]
)
def test_a_place_that_others_can_change_is_refused(tmp_path: Path, mode: int, ours: bool) -> None:
    directory = tmp_path / "server" / "node"
    directory.mkdir(parents=True, mode=0o755)
    directory.parent.chmod(mode)
    if ours:
        haproxy.keep_to_us(directory)
        assert directory.stat().st_mode & 0o777 == 0o700
    else:
        with pytest.raises(SystemExit, match="not ours alone"):
            haproxy.keep_to_us(directory)


class Closing(HttpToolsProtocol):
    """Goes away when the first request with a body comes."""

    gone: ClassVar[bool] = False

    def on_body(self, body: bytes) -> None:
        if Closing.gone:
            super().on_body(body)
        else:
            Closing.gone = True
            self.transport.abort()


def test_a_request_that_nobody_has_answered_is_asked_again(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ingress may be killed: where HAProxy still has the whole request, that is not the client's business."""
    monkeypatch.setattr(Closing, "gone", False)
    with serving(answer, http=Closing) as url:
        running = front(int(url.rpartition(":")[2]))
        with running.connect() as connection:
            # in one piece: what HAProxy has to wait for it passes on as it comes, and does not keep
            head = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1000\r\n\r\n"
            connection.sendall(head + b"x" * 1000)
            received = b""
            while piece := connection.recv(4096):
                received += piece
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"answer")
    assert Closing.gone


def test_a_head_that_does_not_come_is_refused_and_told(front: Front, behind: int) -> None:
    running = front(behind, head_timeout_s=0.2)
    with running.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
    wait_until(running.refused)
    assert running.refused() == [("request_timeout", "127.0.0.1")]


def test_a_head_without_end_is_refused_and_told(front: Front, behind: int) -> None:
    running = front(behind, max_head_bytes=4096)
    with running.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 10_000)
        assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")
    wait_until(running.refused)
    assert running.refused() == [("invalid_http", "127.0.0.1")]


def test_a_head_a_little_too_large_is_for_the_ingress_to_refuse(front: Front, behind: int) -> None:
    running = front(behind, max_head_bytes=16_384)
    assert httpx.get(f"{running.url}/", headers={"x-filler": "a" * 17_000}).status_code == 200


def test_an_idle_connection_is_closed(front: Front, behind: int) -> None:
    running = front(behind, keep_alive_timeout_s=1)
    with running.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        received = b""
        while piece := connection.recv(4096):
            received += piece
        assert received.endswith(b"\r\n\r\nanswer")


def test_one_connection_too_many_is_refused_and_told(front: Front, behind: int) -> None:
    running = front(behind, max_connections=3)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            idle = stack.enter_context(running.connect())
            idle.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert idle.recv(4096).startswith(b"HTTP/1.1 200 ")
        answered = httpx.get(running.url, timeout=30)
        assert (answered.status_code, answered.json()["error"]["code"]) == (503, "too_many_connections")
    wait_until(running.refused)
    assert running.refused() == [("too_many_connections", "127.0.0.1")]
    wait_until(lambda: httpx.get(running.url, timeout=30).status_code == 200, "there is no room again")


def test_it_ends_with_whoever_started_it(rendered: Rendered, tmp_path: Path) -> None:
    """Left alone it would keep the port, and answer for engines that are gone."""
    rendered(port=free_port(), metrics=False)
    starter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import subprocess, time; p = subprocess.Popen([{COMMAND!r}, '-db', '-f', {str(tmp_path / 'c')!r}]);"
            "print(p.pid, flush=True); time.sleep(600)",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    wait_until(lambda: (tmp_path / "a").exists(), "it does not start")
    starter.kill()
    starter.wait()
    starter.stdout.close()

    def ended() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    try:
        wait_until(ended, "it lives on")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def test_one_process_of_a_node_hears_it_and_another_when_that_has_ended(tmp_path: Path) -> None:
    heard: list[tuple[str, str, str | None]] = []
    first = HaproxyLog(tmp_path, lambda reason, client: heard.append(("first", reason, client)))
    second = HaproxyLog(tmp_path, lambda reason, client: heard.append(("second", reason, client)))
    assert first.listen()
    assert not second.listen()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller:
        for line in (b"192.0.2.1 400 PR\n", b"192.0.2.2 408 cR", b"192.0.2.3 503 PR", b"Server x is DOWN", b"\xff"):
            teller.sendto(line, str(tmp_path / haproxy.LOG_SOCKET))
        await eventually(lambda: len(heard) == 3)
        first.close()
        assert second.listen()
        teller.sendto(b"192.0.2.4 400 PR\n", str(tmp_path / haproxy.LOG_SOCKET))
        await eventually(lambda: len(heard) == 4)
    second.close()
    assert heard == [
        ("first", "invalid_http", "192.0.2.1"),
        ("first", "request_timeout", "192.0.2.2"),
        ("first", "too_many_connections", "192.0.2.3"),
        ("second", "invalid_http", "192.0.2.4"),
    ]


async def test_nobody_hears_it_before_haproxy_is_there(tmp_path: Path) -> None:
    log = HaproxyLog(tmp_path / "not there", lambda reason, client: None)
    assert not log.listen()
    log.close()
