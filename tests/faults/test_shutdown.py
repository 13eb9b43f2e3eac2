"""The end of `starcoder serve`: open streams finish, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from deployments.cluster.temporary import PREFIX, short_parent
from tests.support.cluster import Cluster
from tests.support.processes import is_gone
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults


def directories_of(pids: list[int]) -> list[Path]:
    return [path for pid in pids for path in short_parent().glob(f"{PREFIX}{pid}-*")]


@pytest.mark.fault(
    "SIGTERM, while a stream is open",
    "the stream is finished, new connections are refused; the command exits with 0 and leaves nothing",
    until="the command's end",
)
def test_sigterm_lets_streams_finish_and_leaves_nothing(
    tiny_checkpoint: Path, tmp_path: Path, recovered: Callable[[float], None]
) -> None:
    server = Cluster(tiny_checkpoint, tmp_path / "serve.txt", "--dtype", "float32", "--num-threads", "1")
    try:
        server.start()
        tree = [server.process.pid, *server.pids()]
        assert directories_of(tree) == directories_of([server.process.pid])
        lines: list[str] = []

        def read() -> None:
            request = {"prompt": "def f(x):", "max_tokens": 600, "temperature": 0, "ignore_eos": True, "stream": True}
            with httpx.stream("POST", f"{server.url}/v1/completions", json=request, timeout=120) as response:
                lines.extend(response.iter_lines())

        reader = threading.Thread(target=read)
        reader.start()
        wait_until(lambda: len(lines) > 3, server.text)
        told_at = time.monotonic()
        assert server.stop(signal.SIGTERM) == 0
        recovered(time.monotonic() - told_at)
        reader.join(120)
        assert "data: [DONE]" in lines, (len(lines), lines[-3:], server.text()[-3000:])
        assert not any('"error"' in line for line in lines)
    finally:
        server.stop()
    wait_until(lambda: all(is_gone(pid) for pid in tree), lambda: f"left: {[p for p in tree if not is_gone(p)]}")
    assert directories_of(tree) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0
    assert "Traceback" not in server.text()
    assert "Stopped." in server.text()


@pytest.mark.fault(
    "SIGTERM, while a client is slow to read",
    "what was generated before `drain-timeout-s` is over reaches it",
)
def test_sigterm_waits_for_what_a_slow_client_has_not_read_yet(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The engine is done before all is written that it has handed on; then the client has the rest of the time."""
    options = ("--dtype", "float32", "--num-threads", "1", "--drain-timeout-s", "20")
    server = Cluster(tiny_checkpoint, tmp_path / "serve.txt", *options)
    body = json.dumps(
        {"prompt": "def f(x):", "max_tokens": 500, "n": 32, "logprobs": 5, "ignore_eos": True, "stream": True}
    )
    try:
        server.start()
        with socket.socket() as client:
            assert server.pids("starcoder:ingress")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(120)
            client.connect(("127.0.0.1", server.port))
            head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
            answer = bytearray(client.recv(4096))
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: server.lines("engine.stopping"), server.text)
            told_at = time.monotonic()
            while part := client.recv(1 << 14):
                answer += part
                if time.monotonic() < told_at + 2:
                    time.sleep(0.1)  # so slow is this client
        assert b"data: [DONE]" in answer[-100:], (len(answer), answer[-300:], server.text()[-3000:])
        assert server.process.wait(120) == 0
    finally:
        server.stop()


@pytest.mark.fault(
    "Ctrl-C, while it starts",
    "nothing; the command exits with 0 and leaves nothing",
    until="the command's end",
)
def test_ctrl_c_while_it_starts_leaves_nothing(
    tiny_checkpoint: Path, tmp_path: Path, recovered: Callable[[float], None]
) -> None:
    """A terminal sends SIGINT to the whole process group, so to Ray's servers too."""
    server = Cluster(tiny_checkpoint, tmp_path / "serve.txt")
    try:
        server.launch()
        wait_until(lambda: "starting Serve: " in server.text(), server.text)
        tree = [server.process.pid, *server.pids()]
        assert len(tree) > 3
        told_at = time.monotonic()
        os.killpg(server.process.pid, signal.SIGINT)
        assert server.process.wait(120) == 0
        recovered(time.monotonic() - told_at)
    finally:
        server.stop()
    wait_until(lambda: all(is_gone(pid) for pid in tree), lambda: f"left: {[p for p in tree if not is_gone(p)]}")
    assert directories_of(tree) == []
    assert "Traceback" not in server.text()


@pytest.mark.fault(
    "an engine cannot start: its cache is too small",
    "nothing; the command says why, exits with 1 and leaves nothing",
)
def test_a_start_that_fails_leaves_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The cache cannot hold one sequence: known only once a rank has looked at its memory."""
    server = Cluster(tiny_checkpoint, tmp_path / "serve.txt", "--num-kv-blocks", "2", "--start-timeout-s", "120")
    try:
        with pytest.raises(AssertionError):
            server.start()
        assert server.process.returncode == 1
    finally:
        server.stop()
    *_, last = server.text().splitlines()
    assert last.startswith("starcoder serve: the cache holds 2 blocks")
    assert "Traceback" not in server.text()
    assert directories_of([server.process.pid]) == []
