"""Two engines: when one dies, the other takes its streams over, at once and exactly where they were."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.cluster import Cluster
from tests.support.processes import is_gone, kill
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def pair(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    options = ("--min-replicas", "2", "--dtype", "float32", "--num-threads", "1", "--resume-timeout-s", "120")
    options += ("--health-check-period-s", "2")
    server = Cluster(tiny_checkpoint, tmp_path_factory.mktemp("pair") / "serve.txt", *options)
    with server.running():
        yield server


def pieces(server: Cluster, prompt: str, **fields: object) -> Iterator[str]:
    body = {"prompt": prompt, "max_tokens": 1500, "ignore_eos": True, "stream": True, **fields}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=240) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))["choices"][0]["text"]


def seconds_of(pid: int) -> float:
    """Of the processor that a process has used."""
    return sum(psutil.Process(pid).cpu_times()[:2])


REPLICA = "ServeReplica:starcoder:engine"


SOON_S = 10.0
"""Of which the ingress needs one second to see that a replica takes nothing, and the router two."""


def seconds_for_a_short_one(server: Cluster) -> float:
    started_at = time.monotonic()
    answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": "x = 1", "max_tokens": 4}, timeout=60)
    assert answer.status_code == 200
    return time.monotonic() - started_at


@pytest.mark.parametrize(
    ("kind", "number"),
    [("RankProcess", signal.SIGKILL), (REPLICA, signal.SIGKILL), (REPLICA, signal.SIGSTOP)],
    ids=["rank killed", "replica killed", "replica stopped"],
)
def test_the_other_engine_takes_over(
    pair: Cluster, kind: str, number: signal.Signals, record_property: pytest.RecordProperty
) -> None:
    """The engine that runs the stream dies: the one that has worked while it ran. It may have been done already.

    One that is stopped still holds its connections open; while Serve has not noticed, new requests go elsewhere.
    """
    options: dict[str, object] = {"temperature": 0.8, "seed": 3}
    undisturbed = "".join(pieces(pair, "def f(x):", **options))
    for _ in range(5):
        started = len(pair.lines("engine.starting"))
        wait_until(lambda started=started: len(pair.lines("engine.ready")) == started, pair.text)
        resumed = len(pair.lines("request.resuming"))
        before = {pid: seconds_of(pid) for pid in pair.pids(kind)}
        stream, text = pieces(pair, "def f(x):", **options), ""
        while len(text) < 200:
            text += next(stream)
        victim = max(before, key=lambda pid: seconds_of(pid) - before[pid])
        kill(victim, number)
        last, pauses = time.monotonic(), []
        if number == signal.SIGSTOP:
            assert max(seconds_for_a_short_one(pair) for _ in range(6)) < SOON_S
        for piece in stream:
            text += piece
            pauses.append(time.monotonic() - last)
            last = time.monotonic()
        assert text == undisturbed
        wait_until(lambda victim=victim: is_gone(victim), pair.text)
        # its successor's start is told after what became of its streams
        wait_until(lambda started=started: len(pair.lines("engine.starting")) > started, pair.text)
        if len(pair.lines("request.resuming")) > resumed:
            break
    else:
        pytest.fail("no engine that was killed had a stream")
    print(f"{kind}, {number.name}: the stream went on after {max(pauses):.2f} s")
    record_property("recovery_seconds", max(pauses))
