"""The engine that answers from a table, behind the product's own loop and client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.stack.engine import TableEngine
from model.process.client import EngineClient, EngineDeadError
from model.process.loop import EngineLoop
from model.request import Output, Request, SamplingParams
from monitoring import metrics

EOS = 0
TABLE = [11, 12, 13, 14, EOS]


def request(name: str = "a", **params: object) -> Request:
    return Request(name, [1, 2, 3], SamplingParams(**{"max_tokens": 3, **params}))  # type: ignore[arg-type]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock) -> TableEngine:
    return TableEngine(TABLE, EOS, 2, clock, clock.sleep)


def run(engine: TableEngine) -> dict[str, list[Output]]:
    found: dict[str, list[Output]] = {}
    while engine.has_work():
        for output in engine.step():
            found.setdefault(output.request_id, []).append(output)
    return found


def ids(outputs: list[Output]) -> list[int]:
    return [id for output in outputs for id in output.token_ids]


def test_a_step_gives_everybody_a_token(engine: TableEngine) -> None:
    engine.add(request("a"))
    engine.add(request("b", max_tokens=2))
    assert [output.request_id for output in engine.step()] == ["a", "b"]
    found = run(engine)
    assert (ids(found["a"]), ids(found["b"])) == ([12, 13], [12])
    assert [output.finish_reason for output in found["a"]] == [None, "length"]


def test_it_ends_where_a_real_one_does(engine: TableEngine) -> None:
    engine.add(request("eos", max_tokens=64))
    engine.add(request("goes on", max_tokens=7, ignore_eos=True))
    found = run(engine)
    assert ids(found["eos"]) == TABLE
    assert (found["eos"][-1].finish_reason, found["eos"][-1].stop_token_id) == ("stop", EOS)
    assert ids(found["goes on"]) == [*TABLE, 11, 12]
    engine.add(request("stop token", stop_token_ids=(12,)))
    engine.add(request("not yet", stop_token_ids=(11, 13), min_tokens=2))
    found = run(engine)
    assert (ids(found["stop token"]), ids(found["not yet"])) == ([11, 12], [11, 12, 13])


def test_what_another_engine_began_goes_on(engine: TableEngine) -> None:
    engine.add(Request("a", [1], SamplingParams(max_tokens=4), output_ids=[11, 12]))
    assert ids(run(engine)["a"]) == [13, 14]


def test_those_beyond_its_room_wait(engine: TableEngine, clock: Clock) -> None:
    for name in "abc":
        engine.add(request(name, max_tokens=2, seed=10_000))
    assert [output.request_id for output in engine.step()] == ["a", "b"]
    assert (engine.stats().running, engine.stats().waiting) == (2, 1)
    found = run(engine)
    assert found["c"][0].queue_seconds == pytest.approx(0.02)
    stats = engine.stats()
    assert (stats.running, stats[metrics.ENGINE_STEPS], stats[metrics.GENERATION_TOKENS]) == (0, 4, 6)
    assert stats[metrics.PROMPT_TOKENS] == 9


def test_steps_keep_the_pace_whatever_happens_between(engine: TableEngine, clock: Clock) -> None:
    engine.add(request(max_tokens=9, seed=5000, ignore_eos=True))
    engine.step()
    assert clock.now == pytest.approx(100.005)
    clock.now += 0.003
    engine.step()
    assert clock.now == pytest.approx(100.010)
    clock.now += 0.5
    engine.step()
    assert clock.now == pytest.approx(100.515)
    assert engine.timing is not None
    assert (engine.timing.sequences, engine.timing.seconds) == (1, pytest.approx(0.005))


def test_log_probabilities_where_asked_for(engine: TableEngine) -> None:
    engine.add(request(logprobs=0, prompt_logprobs=0))
    first, *_ = run(engine)["a"]
    assert first.logprobs is not None
    assert [entry.token_id for entry in first.logprobs] == [11]
    assert first.prompt_logprobs is not None
    assert len(first.prompt_logprobs) == 3


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "engine.sock")
    loop = EngineLoop(TableEngine(TABLE, EOS, 8), path, [0])
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    yield path
    thread.join(60)
    assert not thread.is_alive()


async def test_the_products_client_talks_to_it(served: str) -> None:
    client = await EngineClient.connect(served, 60)
    steps = []
    client.on_step = steps.append
    got = [id async for output in client.generate(request()) for id in output.token_ids]
    assert got == TABLE[:3]
    assert (await client.ping(60)).running == 0
    assert steps
    await client.shutdown()
    assert isinstance(client.dead, EngineDeadError)


async def test_an_aborted_request_leaves(served: str) -> None:
    client = await EngineClient.connect(served, 60)
    endless = client.generate(request("endless", max_tokens=10**9, ignore_eos=True, seed=1000))
    await anext(endless)
    assert client.stats.running == 1
    await endless.aclose()
    async with asyncio.timeout(60):
        while (await client.ping(60)).running:
            pass
    await client.shutdown()
