"""The engine in its own process: streaming, abort, heartbeat, and every way it can end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from model.config import EngineConfig
from model.process.client import EngineClient, EngineDeadError, merge
from model.process.loop import EngineLoop
from model.request import Output, Request, SamplingParams, TokenLogprobs
from monitoring.metrics import ENGINE_STEPS, GENERATION_TOKENS
from tests.support.checkpoints import random_model, write_checkpoint
from tests.support.out_of_memory import OutOfMemory
from tests.support.ranks import RankGroup, collect
from tests.support.toy_engine import toy_engine
from tests.support.waiting import eventually, settle, wait_until

ENDLESS = SamplingParams(max_tokens=4000, temperature=0, ignore_eos=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), random_model(n_positions=4096))


def config(checkpoint: Path, **options: object) -> EngineConfig:
    return EngineConfig(model=str(checkpoint), device="cpu", num_threads=1, num_kv_blocks=600, **options)


@contextlib.contextmanager
def paused(pid: int) -> Iterator[None]:
    """A process that stands still during the block."""
    process = psutil.Process(pid)
    process.suspend()
    try:
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
        yield
    finally:
        process.resume()


async def to_the_end(stream: AsyncIterator[Output]) -> None:
    async for _ in stream:
        pass


async def test_life_of_one_engine(checkpoint):
    """One process, many scenarios in turn: starting one takes seconds."""
    with RankGroup(config(checkpoint)) as group:
        async with group.client() as client:
            outputs = await collect(client, Request("a", [1, 2, 3], SamplingParams(max_tokens=50, ignore_eos=True)))
            assert sum(len(o.token_ids) for o in outputs) == 50
            assert [o.finish_reason for o in outputs[:-1]] == [None] * (len(outputs) - 1)
            assert outputs[-1].finish_reason == "length"

            # abort by closing: the request is gone within two steps
            stream = client.generate(Request("b", [1] * 20, ENDLESS))
            await anext(stream)
            with paused(group.processes[0].pid):
                await settle()  # all that it has said is heard
                await stream.aclose()
                before = client.stats[ENGINE_STEPS]
            await eventually(lambda: client.stats.running == 0)
            assert client.stats[ENGINE_STEPS] <= before + 2
            assert client.stats.kv_blocks_used == 0
            assert client.open_requests == 0

            # abort by cancelling a task, one of two requests: the other goes on
            other = asyncio.create_task(collect(client, Request("c", [5] * 20, SamplingParams(max_tokens=300))))
            stream = client.generate(Request("d", [6] * 20, ENDLESS))
            await anext(stream)
            task = asyncio.create_task(to_the_end(stream))
            await settle()
            task.cancel()
            assert (await other)[-1].finish_reason is not None
            await eventually(lambda: client.stats.running == 0)

            stats = await client.ping(30)
            assert stats.running == stats.waiting == 0
            assert stats[GENERATION_TOKENS] > 50
            assert stats.parameter_bytes == [group.reports[0]["parameter_bytes"]]

            # what can never run
            refused = await collect(client, Request("e", [1] * 5000))
            assert [o.finish_reason for o in refused] == ["abort"]
        assert group.wait_ended() == [0]
        assert group.sockets() == []


async def test_idle_uses_next_to_no_cpu(checkpoint):
    with RankGroup(config(checkpoint, tensor_parallel_size=2)) as group:
        async with group.client() as client:
            await collect(client, Request("a", [1, 2, 3], SamplingParams(max_tokens=5)))
            processes = [psutil.Process(p.pid) for p in group.processes]
            await asyncio.sleep(2)  # the one check for leaks, a second after the last work
            before = [sum(p.cpu_times()[:2]) for p in processes]
            started = time.monotonic()
            await asyncio.sleep(4)
            used = [sum(p.cpu_times()[:2]) - b for p, b in zip(processes, before, strict=True)]
            assert max(used) < 0.05 * (time.monotonic() - started), used
            await client.ping(30)


async def test_the_engine_stops_when_its_client_is_gone(checkpoint):
    with RankGroup(config(checkpoint, tensor_parallel_size=2)) as group:
        async with group.client() as client:
            stream = client.generate(Request("a", [1], ENDLESS))
            await anext(stream)
            client._writer.transport.abort()
            with pytest.raises(EngineDeadError):
                await to_the_end(stream)
        assert group.wait_ended() == [0, 0]


@pytest.mark.parametrize("victim", [0, 1])
async def test_a_killed_rank_ends_open_requests_and_the_other_rank(checkpoint, victim):
    with RankGroup(config(checkpoint, tensor_parallel_size=2)) as group:
        async with group.client() as client:
            stream = client.generate(Request("a", [1], ENDLESS))
            await anext(stream)
            os.kill(group.processes[victim].pid, signal.SIGKILL)
            with pytest.raises(EngineDeadError, match="process ended"):
                await to_the_end(stream)
            assert client.open_requests == 0
            with pytest.raises(EngineDeadError):
                await client.ping(5)
            assert isinstance(await client.wait_dead(), EngineDeadError)
        codes = group.wait_ended()
        assert codes[victim] == -signal.SIGKILL


async def test_a_rank_that_hangs_while_idle_fails_the_heartbeat(checkpoint):
    with RankGroup(config(checkpoint, tensor_parallel_size=2)) as group:
        async with group.client() as client:
            await client.ping(30)
            os.kill(group.processes[1].pid, signal.SIGSTOP)
            with pytest.raises(TimeoutError):
                await client.ping(2)
            client.fail("heartbeat missed")
            with pytest.raises(EngineDeadError, match="heartbeat missed"):
                await collect(client, Request("a", [1]))


def test_merging_outputs_loses_nothing():
    entry = TokenLogprobs(1, -0.5)
    merged = merge(
        [
            Output("r", [1], [entry], prompt_logprobs=[None, entry], cached_tokens=16, queue_seconds=0.2),
            Output("r", [2], [entry]),
            Output("r", [3], [entry], finish_reason="stop", stop_token_id=3),
        ]
    )
    assert merged == Output("r", [1, 2, 3], [entry] * 3, [None, entry], "stop", 3, 16, 0.2)
    failed = Output("r", finish_reason="abort", failure="out_of_memory")
    assert merge([Output("r", [1]), failed]) == Output("r", [1], finish_reason="abort", failure="out_of_memory")


async def test_a_step_that_fails_ends_the_rank_at_once(tmp_path: Path) -> None:
    """The client hears of it by its socket; why is for the rank to say, which raises it."""
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    engine = toy_engine()
    engine.add(Request("waiting", [1, 2]))
    with OutOfMemory(engine, {0: "forward"}, error):
        run = asyncio.create_task(asyncio.to_thread(EngineLoop(engine, str(tmp_path / "engine"), []).run))
        client = await EngineClient.connect(str(tmp_path / "engine"), timeout_s=60)
        with pytest.raises(RuntimeError) as raised:
            await run
    assert raised.value is error
    assert (await client.wait_dead()).kind == "died"
    with pytest.raises(EngineDeadError):
        await collect(client, Request("next", [1, 2]))
