"""Two engines: when one dies, the other takes its streams over, at once and exactly where they were."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.cluster import Cluster
from tests.support.processes import is_gone, kill
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults


@pytest.fixture
def pair(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Cluster]:
    options = ("--min-replicas", "2", "--dtype", "float32", "--num-threads", "1", "--resume-timeout-s", "120")
    server = Cluster(tiny_checkpoint, tmp_path / "serve.txt", *options)
    try:
        server.start()
        wait_until(lambda: len(server.lines("engine.ready")) == 2, server.text)
        yield server
    finally:
        print(server.text())
        server.stop()


def pieces(server: Cluster, prompt: str, **fields: object) -> Iterator[str]:
    body = {"prompt": prompt, "max_tokens": 1500, "ignore_eos": True, "stream": True, **fields}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=240) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))["choices"][0]["text"]


@pytest.mark.parametrize("kind", ["RankProcess", "ServeReplica:starcoder:engine"])
def test_the_other_engine_takes_over(pair: Cluster, kind: str, record_property: pytest.RecordProperty) -> None:
    """Whichever runs the stream: both kinds of processes die in turn, and the pause is the longest one seen."""
    options: dict[str, object] = {"temperature": 0.8, "seed": 3}
    undisturbed = "".join(pieces(pair, "def f(x):", **options))
    pauses = []
    for number, victim in enumerate(pair.pids(kind)):
        wait_until(lambda number=number: len(pair.lines("engine.ready")) == 2 + number, pair.text)
        stream, text = pieces(pair, "def f(x):", **options), ""
        while len(text) < 40:
            text += next(stream)
        kill(victim, signal.SIGKILL)
        last = time.monotonic()
        for piece in stream:
            text += piece
            pauses.append(time.monotonic() - last)
            last = time.monotonic()
        assert text == undisturbed
        wait_until(lambda victim=victim: is_gone(victim), pair.text)
    assert len(pair.lines("request.resuming")) >= 1
    print(f"{kind} killed: the stream went on after {max(pauses):.2f} s")
    record_property("recovery_seconds", max(pauses))
