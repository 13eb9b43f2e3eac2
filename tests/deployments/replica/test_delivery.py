"""Answers on their way: signs of life, the place of those that arrive late, and nothing left of those that ended."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import OverloadedError
from deployments.protocol import Delta
from deployments.replica.admission import Admission
from deployments.replica.delivery import HEARTBEAT_S, LATE_S, RECEIPT_S, Batches, Deliveries, with_heartbeats
from model.statistics import EngineStats
from tests.support.virtual_time import VirtualTimeLoop


def in_virtual_time(coroutine: Coroutine[Any, Any, None]) -> None:
    loop = VirtualTimeLoop()
    try:
        loop.run_until_complete(coroutine)
        assert asyncio.all_tasks(loop) == set(), "left running"
    finally:
        loop.close()


class Answer:
    """Batches after so many seconds each; an exception at the end, where one is given."""

    def __init__(self, *pauses: float, error: Exception | None = None) -> None:
        self.pauses = pauses
        self.error = error
        self.closed = False

    async def batches(self) -> Batches:
        try:
            for number, pause in enumerate(self.pauses):
                await asyncio.sleep(pause)
                yield [Delta(index=number)]
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True


async def read(batches: Batches, into: list[int | None]) -> None:
    """Indices, and None for a sign of life."""
    async with aclosing(batches):
        async for batch in batches:
            into += [batch[0].index if batch else None]


@given(st.lists(st.sampled_from([0.0, 0.5, 1.9, 2.1, 5.0, 30.0]), max_size=6), st.booleans())
def test_every_batch_comes_in_order_and_silence_is_broken(pauses: list[float], fails: bool) -> None:
    async def run() -> None:
        answer = Answer(*pauses, error=OverloadedError("full") if fails else None)
        came, at = list[int | None](), [asyncio.get_running_loop().time()]
        try:
            async with aclosing(with_heartbeats(answer.batches())) as batches:
                async for batch in batches:
                    came.append(batch[0].index if batch else None)
                    at.append(asyncio.get_running_loop().time())
        except OverloadedError:
            assert fails
        assert [index for index in came if index is not None] == list(range(len(pauses)))
        assert max((b - a for a, b in itertools.pairwise(at)), default=0.0) <= HEARTBEAT_S + 1e-6
        assert answer.closed

    in_virtual_time(run())


def test_an_answer_that_has_arrived_ends_and_keeps_no_place() -> None:
    async def run() -> None:
        admission, answer, came = Admission(1, 0), Answer(1.0, 0.0), list[int | None]()
        deliveries = Deliveries(admission)
        reader = asyncio.create_task(read(deliveries.deliver("a", 1, answer.batches()), came))
        await asyncio.sleep(1.0 + LATE_S / 2)
        assert (came, admission.open, len(deliveries)) == ([0, 1], 0, 1)
        deliveries.received(["a", "never heard of"])
        await reader
        assert (admission.open, len(deliveries)) == (0, 0)
        deliveries.received(["a"])

    in_virtual_time(run())


def test_what_the_ingress_has_not_passed_on_is_still_in_the_queue() -> None:
    async def run() -> None:
        admission, readers = Admission(2, 0), list[asyncio.Task[None]]()
        deliveries = Deliveries(admission)
        for name in ("a", "b"):
            readers.append(asyncio.create_task(read(deliveries.deliver(name, 1, Answer(1.0).batches()), [])))
        await asyncio.sleep(1.0 + LATE_S * 2)
        assert admission.open == 2
        with pytest.raises(OverloadedError):
            admission.admit(1, EngineStats()).__enter__()
        deliveries.received(["b"])
        await readers[1]
        with admission.admit(1, EngineStats()):
            assert admission.open == 2
        await asyncio.sleep(RECEIPT_S)
        assert readers[0].done(), "somebody who says nothing would keep its place for ever"
        assert admission.open == 0

    in_virtual_time(run())


@pytest.mark.parametrize("at", [0.5, 1.1, 1.0 + 2 * LATE_S])
def test_a_reader_that_leaves_frees_everything(at: float) -> None:
    """While it is generated, when it has just been, and when it is late."""

    async def run() -> None:
        admission, answer = Admission(1, 0), Answer(1.0)
        deliveries = Deliveries(admission)
        reader = asyncio.create_task(read(deliveries.deliver("a", 1, answer.batches()), []))
        await asyncio.sleep(at)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        assert answer.closed
        assert (admission.open, len(deliveries)) == (0, 0)

    in_virtual_time(run())


def test_a_failure_comes_after_what_was_said_before_it() -> None:
    async def run() -> None:
        came = list[int | None]()
        answer = Answer(0.0, 3.0, error=OverloadedError("full"))
        with pytest.raises(OverloadedError):
            await read(Deliveries(Admission(1, 0)).deliver("a", 1, answer.batches()), came)
        assert came == [0, None, 1]

    in_virtual_time(run())
