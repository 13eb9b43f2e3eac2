"""A server of one engine: it dies, and none comes back in time, which everybody is told soon; and the server's end."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.cluster import LONG, Cluster
from tests.support.leftovers import directories_of
from tests.support.processes import is_gone, kill
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.faults

RESUME_S = 2.0
BODY = {"prompt": "def f(x):", "max_tokens": 8}


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("alone")
    options = ("--dtype", "float32", "--num-threads", "1", "--max-queued-requests", "16")
    options += ("--metrics-dir", str(directory / "metrics"), "--resume-timeout-s", str(RESUME_S))
    server = Cluster(tiny_checkpoint, directory / "serve.txt", *options)
    with server.running():
        yield server


@pytest.mark.fault(
    "the only engine is killed and none takes its place; `resume-timeout-s` is 2",
    "64 requests and `/health` get 503, `engine_unavailable`; an open stream ends with an error event",
    until="the last of them",
)
def test_no_request_waits_for_ever(server: Cluster, recovered: Callable[[float], None]) -> None:
    recovered(_without_an_engine(server))
    wait_until(lambda: _post(server)[0] == 200, server.text)
    assert "Traceback" not in server.text()


def _without_an_engine(server: Cluster) -> float:
    """Seconds until everybody was told."""
    body = {**BODY, **LONG, "stream": True}
    stream = httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=PATIENCE_S)
    with ThreadPoolExecutor(64) as pool, stream as response:
        lines = response.iter_lines()
        next(lines)
        # Its successor must not be ready before the test has asked: it is kept from starting.
        for pid in server.pids("ServeController"):
            kill(pid, signal.SIGSTOP)
        try:
            for pid in server.pids("ServeReplica:starcoder:engine"):
                kill(pid, signal.SIGKILL)
            started_at = time.monotonic()
            asked = [pool.submit(_post, server) for _ in range(64)]
            health = httpx.get(f"{server.url}/health", timeout=PATIENCE_S)
            *_, last = (line for line in lines if line)
            answers = [call.result() for call in asked]
            took = time.monotonic() - started_at
            shown = httpx.get(f"{server.url}/metrics", timeout=PATIENCE_S).text
        finally:
            for pid in server.pids("ServeController"):
                kill(pid, signal.SIGCONT)
    assert took < PATIENCE_S / 2  # nobody waits for the end of a patience
    assert Counter((status, code, bool(retry)) for status, code, retry in answers) == {
        (503, "engine_unavailable", True): 64
    }
    assert health.status_code == 503
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_unavailable"
    assert 'starcoder_engines_up{model="tiny-starcoder"} 0.0' in shown
    assert 'starcoder_requests_lost_total{model="tiny-starcoder"} 1.0' in shown
    assert 'starcoder_requests_waiting_for_engine{model="tiny-starcoder"} 0.0' in shown
    rejected = 'starcoder_requests_rejected_total{model="tiny-starcoder",reason="unavailable",team="default"} 64.0'
    assert rejected in shown
    return took


def _post(server: Cluster) -> tuple[int, str | None, str | None]:
    answer = httpx.post(f"{server.url}/v1/completions", json=BODY, timeout=PATIENCE_S)
    code = answer.json()["error"]["code"] if answer.status_code != 200 else None
    return answer.status_code, code, answer.headers.get("retry-after")


@pytest.mark.last
@pytest.mark.fault(
    "SIGTERM, while a stream is open",
    "the stream is finished, new connections are refused; the command exits with 0 and leaves nothing",
    until="the command's end",
)
def test_sigterm_lets_streams_finish_and_leaves_nothing(server: Cluster, recovered: Callable[[float], None]) -> None:
    tree = [server.process.pid, *server.pids()]
    assert directories_of(tree) == directories_of([server.process.pid])
    lines: list[str] = []

    def read() -> None:
        request = {"prompt": "def f(x):", "max_tokens": 600, "temperature": 0, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=request, timeout=PATIENCE_S) as response:
            lines.extend(response.iter_lines())

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: len(lines) > 3, server.text)
    told_at = time.monotonic()
    assert server.stop(signal.SIGTERM) == 0
    recovered(time.monotonic() - told_at)
    reader.join(120)
    assert "data: [DONE]" in lines, (len(lines), lines[-3:], server.text()[-3000:])
    assert not any('"error":' in line for line in lines)
    wait_until(lambda: all(is_gone(pid) for pid in tree), lambda: f"left: {[p for p in tree if not is_gone(p)]}")
    assert directories_of(tree) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0
    assert "Traceback" not in server.text()
    assert "Stopped." in server.text()
