"""Two engines: when one dies, the other takes its streams over, at once and exactly where they were."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.faults.test_failures import PAUSE
from tests.support.cluster import Cluster
from tests.support.processes import is_gone, kill
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def pair(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    options = ("--min-replicas", "2", "--dtype", "float32", "--num-threads", "1", "--resume-timeout-s", "120")
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


@pytest.mark.fault("one of two engines is killed, its rank or its replica", PAUSE, until="next token")
@pytest.mark.parametrize("kind", ["RankProcess", "ServeReplica:starcoder:engine"])
def test_the_other_engine_takes_over(pair: Cluster, kind: str, recovered: Callable[[float], None]) -> None:
    """The engine that runs the stream dies: the one that has worked while it ran. It may have been done already."""
    options: dict[str, object] = {"temperature": 0.8, "seed": 3}
    undisturbed = "".join(pieces(pair, "def f(x):", **options))
    for _ in range(5):
        wait_until(lambda: len(pair.pids(kind)) == 2, pair.text)
        wait_until(lambda: len(pair.lines("engine.ready")) == len(pair.lines("engine.starting")), pair.text)
        resumed = len(pair.lines("request.resuming"))
        before = {pid: seconds_of(pid) for pid in pair.pids(kind)}
        stream, text = pieces(pair, "def f(x):", **options), ""
        while len(text) < 40:
            text += next(stream)
        victim = max(before, key=lambda pid: seconds_of(pid) - before[pid])
        kill(victim, signal.SIGKILL)
        last, pauses = time.monotonic(), []
        for piece in stream:
            text += piece
            pauses.append(time.monotonic() - last)
            last = time.monotonic()
        assert text == undisturbed
        wait_until(lambda victim=victim: is_gone(victim), pair.text)
        # its successor's start is told after what became of its streams
        wait_until(lambda before=before: set(pair.pids(kind)) - set(before), pair.text)
        if len(pair.lines("request.resuming")) > resumed:
            break
    else:
        pytest.fail("no engine that was killed had a stream")
    recovered(max(pauses))
