"""Two engines: when one dies, the other takes its streams over, at once and exactly where they were; and their end."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import cache

import httpx
import psutil
import pytest

from tests.faults.test_failures import PAUSE
from tests.support.cluster import Cluster
from tests.support.processes import is_gone, kill
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.faults


def pieces(server: Cluster, prompt: str, **fields: object) -> Iterator[str]:
    body = {"prompt": prompt, "max_tokens": 500, "ignore_eos": True, "stream": True, **fields}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=240) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))["choices"][0]["text"]


def seconds_of(pid: int) -> float:
    """Of the processor that a process has used."""
    return sum(psutil.Process(pid).cpu_times()[:2])


REPLICA = "ServeReplica:starcoder:engine"
SOON_S = 20.0
"""Of which the ingress needs one second to see that a replica takes nothing, and the router two. Serve finds it after
half a minute."""


@pytest.mark.fault("one of two engines is killed, its rank or its replica", PAUSE, until="next token")
@pytest.mark.parametrize("kind", ["RankProcess", REPLICA])
def test_the_other_engine_takes_over(pair: Cluster, kind: str, recovered: Callable[[float], None]) -> None:
    recovered(break_the_one_that_streams(pair, kind, signal.SIGKILL))


@pytest.mark.fault(
    "one of two replicas is stopped, its connections open",
    f"{PAUSE}; new requests go to the other one",
    until="next token",
)
def test_the_other_engine_takes_over_from_one_that_says_nothing(
    pair: Cluster, recovered: Callable[[float], None]
) -> None:
    def new_ones() -> None:
        assert max(seconds_for_a_short_one(pair) for _ in range(6)) < SOON_S

    recovered(break_the_one_that_streams(pair, REPLICA, signal.SIGSTOP, new_ones))


def seconds_for_a_short_one(server: Cluster) -> float:
    started_at = time.monotonic()
    answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "x = 1", "max_tokens": 4}, timeout=PATIENCE_S)
    assert answer.status_code == 200
    return time.monotonic() - started_at


def both_ready(pair: Cluster) -> int:
    """Engines that have started so far."""
    started = len(pair.lines("engine.starting"))
    wait_until(lambda: len(pair.lines("engine.ready")) == started, pair.text)
    wait_until(lambda: states(pair) == ["ready", "ready"], lambda: f"{pair.health()} {pair.text()}")
    return started


def states(pair: Cluster) -> list[str]:
    """Of the engines, as /health has them."""
    return [engine["state"] for engine in (pair.health() or {"engines": []})["engines"]]


def a_stream(pair: Cluster) -> Iterator[str]:
    return pieces(pair, "def f(x):", temperature=0.8, seed=3)


@cache
def undisturbed(pair: Cluster) -> str:
    """What the stream says, once for all that break it."""
    return "".join(a_stream(pair))


def break_the_one_that_streams(
    pair: Cluster, kind: str, number: signal.Signals, meanwhile: Callable[[], None] = lambda: None
) -> float:
    """Signal the process that has worked while a stream ran, which then goes on; seconds until it does.

    Its engine may have been done with the stream already: then once more.
    """
    known = undisturbed(pair)
    for _ in range(5):
        started = both_ready(pair)
        resumed = len(pair.lines("request.resuming"))
        before = {pid: seconds_of(pid) for pid in pair.pids(kind)}
        stream, text = a_stream(pair), ""
        while len(text) < 200:
            text += next(stream)
        victim = max(before, key=lambda pid: seconds_of(pid) - before[pid])
        kill(victim, number)
        last, pauses = time.monotonic(), []
        meanwhile()
        for piece in stream:
            text += piece
            pauses.append(time.monotonic() - last)
            last = time.monotonic()
        assert text == known
        kill(victim)  # one that was only stopped would be killed by Serve, half a minute later
        wait_until(lambda victim=victim: is_gone(victim), pair.text)
        # its successor's start is told after what became of its streams
        wait_until(lambda started=started: len(pair.lines("engine.starting")) > started, pair.text)
        if len(pair.lines("request.resuming")) > resumed:
            return max(pauses)
    raise AssertionError("no engine that was broken had a stream")


def status(pair: Cluster, path: str) -> tuple[int, str | None]:
    answer = httpx.get(f"{pair.url}{path}", timeout=PATIENCE_S)
    return answer.status_code, answer.json().get("status")


@pytest.mark.last
@pytest.mark.fault(
    "SIGTERM, while a client is slow to read",
    "what was generated before `drain-timeout-s` is over reaches it",
)
def test_sigterm_waits_for_what_a_slow_client_has_not_read_yet(pair: Cluster) -> None:
    """The engine is done before all is written that it has handed on; then the client has the rest of the time.

    For a client that only keeps its connection nobody waits: it would be until the time is over.
    """
    body = json.dumps(
        {"prompt": "def f(x):", "max_tokens": 500, "n": 32, "logprobs": 5, "ignore_eos": True, "stream": True}
    )
    both_ready(pair)
    tree = pair.tree()
    with socket.socket() as client, httpx.Client(base_url=pair.url) as idle:
        assert idle.get("/version").status_code == 200
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(120)
        client.connect(("127.0.0.1", pair.port))
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        answer = bytearray(client.recv(4096))
        pair.process.send_signal(signal.SIGTERM)
        wait_until(lambda: status(pair, "/health") == (503, "draining"), pair.text)
        assert status(pair, "/health/live") == (200, "ok")
        wait_until(lambda: pair.lines("engine.stopping"), pair.text)
        told_at = time.monotonic()
        while part := client.recv(1 << 14):
            answer += part
            if time.monotonic() < told_at + 2:
                time.sleep(0.1)  # so slow is this client
        assert b"data: [DONE]" in answer[-100:], (len(answer), answer[-300:], pair.text()[-3000:])
        assert pair.process.wait(120) == 0
    assert not pair.lines("server.answers_cut")
    pair.leaves_nothing(tree)
    assert "Stopped." in pair.text()
