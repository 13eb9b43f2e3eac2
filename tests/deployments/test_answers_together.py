"""Ingress and replica, with nothing between them but time: news arrive whole, in order, and mostly together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import EngineOutOfMemoryError, EngineUnavailableError
from deployments.http.handle_backend import HandleBackend
from deployments.protocol import Delta, GenerationRequest
from deployments.replica.delivery import RECEIPT_S
from deployments.replica.outbox import LONGEST_INTERVAL_S
from model.request import SamplingParams, TokenLogprobs
from tests.support.loopback import LoopbackReplica, handle
from tests.support.virtual_time import VirtualTimeLoop

TOKENS = 40


def in_virtual_time(coroutine: Coroutine[Any, Any, None]) -> None:
    loop = VirtualTimeLoop()
    try:
        loop.run_until_complete(coroutine)
        loop.run_until_complete(asyncio.sleep(10))  # connections end that nobody needs
        assert asyncio.all_tasks(loop) == set(), "left running"
    finally:
        loop.close()


class Engine:
    """Gives each request `TOKENS` tokens, one every `step_s`; the text of each is the request's id and its number."""

    def __init__(self, step_s: float = 0.005, fails: str = "") -> None:
        self.step_s = step_s
        self.fails = fails
        self.open = 0

    async def answer(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        self.open += 1
        try:
            for number in range(TOKENS):
                await asyncio.sleep(self.step_s)
                if number == TOKENS // 2 and request.request_id == self.fails:
                    raise EngineOutOfMemoryError("no memory")
                yield [
                    Delta(
                        index=0,
                        text=f"{request.request_id}:{number} ",
                        token_ids=[number],
                        logprobs=[TokenLogprobs(number, -1.0, [(1, -2.0)])],
                        finish_reason="length" if number == TOKENS - 1 else None,
                    )
                ]
        finally:
            self.open -= 1


def text_of(name: str, tokens: int = TOKENS) -> str:
    return "".join(f"{name}:{number} " for number in range(tokens))


async def read(backend: HandleBackend, name: str, into: dict[str, list[Delta]], slow_s: float = 0.0) -> None:
    request = GenerationRequest(request_id=name, prompts=[[1]], params=SamplingParams())
    into[name] = []
    async with aclosing(backend.stream(request)) as batches:
        async for batch in batches:
            into[name] += batch
            if slow_s:
                await asyncio.sleep(slow_s)


def told(deltas: list[Delta]) -> tuple[str, list[int], int]:
    logprobs = [entry for delta in deltas for entry in delta.logprobs or []]
    return "".join(d.text for d in deltas), [t for d in deltas for t in d.token_ids], len(logprobs)


@given(st.integers(0, 2**32), st.integers(1, 12), st.sampled_from([0.0, 0.002, 0.1]))
def test_each_answer_arrives_whole_and_in_order_whenever_it_began(seed: int, count: int, slow_s: float) -> None:
    async def run() -> None:
        chosen, engine, got = random.Random(seed), Engine(), dict[str, list[Delta]]()
        replica = LoopbackReplica("a", engine.answer)
        backend = HandleBackend(handle([replica]))

        async def one(name: str) -> None:
            await asyncio.sleep(chosen.choice([0.0, 0.01, 0.1, 5.0]))
            await read(backend, name, got, slow_s * chosen.random())

        await asyncio.gather(*(one(f"r{number}") for number in range(count)))
        for name, deltas in got.items():
            assert told(deltas) == (text_of(name), [*range(TOKENS)], TOKENS)
            assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["length"]
        await asyncio.sleep(1)
        assert (engine.open, replica.admission.open, len(replica.deliveries)) == (0, 0, 0)

    in_virtual_time(run())


def test_a_step_of_many_answers_is_one_message() -> None:
    async def run() -> None:
        replica, got = LoopbackReplica("a", Engine().answer), dict[str, list[Delta]]()
        backend = HandleBackend(handle([replica]))
        await asyncio.gather(*(read(backend, f"r{number}", got) for number in range(64)))
        assert all(told(deltas)[0] == text_of(name) for name, deltas in got.items())
        assert replica.messages < 2 * TOKENS

    in_virtual_time(run())


def test_one_that_fails_fails_behind_its_tokens_and_alone() -> None:
    async def run() -> None:
        engine, got = Engine(fails="r1"), dict[str, list[Delta]]()
        backend = HandleBackend(handle([LoopbackReplica("a", engine.answer)]))
        found = await asyncio.gather(*(read(backend, f"r{n}", got) for n in range(3)), return_exceptions=True)
        assert [type(one) for one in found] == [type(None), EngineOutOfMemoryError, type(None)]
        assert told(got["r1"])[0] == text_of("r1", TOKENS // 2)
        assert told(got["r2"])[0] == text_of("r2")

    in_virtual_time(run())


@pytest.mark.parametrize("at", [0.001, 0.007, 0.012, 0.05, 0.1])
def test_when_connections_break_each_answer_is_lost_in_order_and_the_engine_freed(at: float) -> None:
    async def run() -> None:
        engine, got = Engine(), dict[str, list[Delta]]()
        replica = LoopbackReplica("a", engine.answer)
        backend = HandleBackend(handle([replica]))
        reading = [asyncio.create_task(read(backend, f"r{number}", got)) for number in range(5)]
        await asyncio.sleep(at)
        replica.break_connections()
        found = await asyncio.wait_for(asyncio.gather(*reading, return_exceptions=True), 1)
        for (name, deltas), error in zip(got.items(), found, strict=True):
            assert isinstance(error, Exception), "it would wait for ever"
            assert text_of(name).startswith(told(deltas)[0])
        await asyncio.sleep(1)
        assert (engine.open, replica.admission.open, len(replica.deliveries)) == (0, 0, 0)
        await read(backend, "later", got)
        assert told(got["later"])[0] == text_of("later")

    in_virtual_time(run())


@pytest.mark.parametrize("error", [ConnectionError("it broke"), asyncio.CancelledError()])
def test_only_the_common_connection_breaks(error: BaseException) -> None:
    """Serve raises here what its replica raised there: to be cancelled there is not to be cancelled here."""

    async def run() -> None:
        engine, got = Engine(), dict[str, list[Delta]]()
        replica = LoopbackReplica("a", engine.answer)
        backend = HandleBackend(handle([replica]))
        reading = asyncio.create_task(read(backend, "r", got))
        await asyncio.sleep(0.1)
        replica.break_attached(error)
        with pytest.raises(EngineUnavailableError):
            await asyncio.wait_for(reading, 1)
        await asyncio.sleep(0.1)
        assert engine.open == 0

    in_virtual_time(run())


def test_of_a_replica_that_leaves_answers_come_on_their_own_calls() -> None:
    """No call reaches it any more, neither to listen nor with receipts."""

    async def run() -> None:
        engine, got = Engine(), dict[str, list[Delta]]()
        leaving, other = LoopbackReplica("a", engine.answer), LoopbackReplica("b", engine.answer)
        backend = HandleBackend(handle([leaving, other]))
        leaving.leaving = True
        await asyncio.gather(*(read(backend, f"r{number}", got) for number in range(4)))
        assert all(told(deltas)[0] == text_of(name) for name, deltas in got.items())
        assert leaving.messages == other.messages == 0
        await asyncio.sleep(RECEIPT_S + 1)
        assert (leaving.admission.open, len(leaving.deliveries)) == (0, 0)

    in_virtual_time(run())


def test_a_client_that_leaves_frees_its_place_in_the_engine() -> None:
    async def run() -> None:
        engine, got = Engine(), dict[str, list[Delta]]()
        replica = LoopbackReplica("a", engine.answer)
        backend = HandleBackend(handle([replica]))
        reading = [asyncio.create_task(read(backend, f"r{number}", got)) for number in range(3)]
        await asyncio.sleep(0.1)
        reading[0].cancel()
        await asyncio.sleep(0.01)
        assert engine.open == 2
        await asyncio.gather(*reading[1:])
        assert told(got["r1"])[0] == text_of("r1")

    in_virtual_time(run())


def test_an_ingress_that_lags_behind_gets_fewer_and_larger_messages_but_enough_of_them() -> None:
    async def run(lag_s: float) -> int:
        replica, got = LoopbackReplica("a", Engine(0.001).answer), dict[str, list[Delta]]()
        backend = HandleBackend(handle([replica]))
        reading = asyncio.gather(*(read(backend, f"r{number}", got) for number in range(4)))
        await asyncio.sleep(0.005)
        for outbox in replica.deliveries._outboxes.values():
            outbox.lags(lag_s)
        await reading
        assert all(told(deltas)[0] == text_of(name) for name, deltas in got.items())
        return replica.messages

    counts = []
    for lag_s in (0.0, 0.01, 10.0):
        loop = VirtualTimeLoop()
        counts.append(loop.run_until_complete(run(lag_s)))
        loop.run_until_complete(asyncio.sleep(10))
        loop.close()
    assert counts[0] > counts[1] > counts[2] >= TOKENS * 0.001 / LONGEST_INTERVAL_S
