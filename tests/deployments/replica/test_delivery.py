"""Answers on their way: signs of life, the place of those that arrive late, and nothing left of those that ended."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import OverloadedError, ServeError, unwrap
from deployments.protocol import Attach, Delta, GenerationRequest, News, Receipt
from deployments.replica.admission import Admission
from deployments.replica.delivery import LATE_S, RECEIPT_S, Batches, Deliveries, Item
from deployments.replica.outbox import HEARTBEAT_S, LONGEST_INTERVAL_S
from model.request import SamplingParams
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


def deliveries_of(admission: Admission) -> Deliveries:
    return Deliveries("me", admission, lambda _, error: unwrap(error), asyncio.get_running_loop().time)


def request(name: str = "a") -> GenerationRequest:
    return GenerationRequest(request_id=name, prompts=[[1]], params=SamplingParams())


async def read(items: AsyncGenerator[Item, None], into: list[int | None]) -> None:
    """Indices, and None for a sign of life. Raises what it is told."""
    async with aclosing(items):
        async for item in items:
            if isinstance(item, ServeError):
                raise item
            name, batch = item
            assert name == "me"
            assert batch is not None
            into += [batch[0].index if batch else None]


@given(st.lists(st.sampled_from([0.0, 0.5, 1.9, 2.1, 5.0, 30.0]), max_size=6), st.booleans())
def test_every_batch_comes_in_order_and_silence_is_broken(pauses: list[float], fails: bool) -> None:
    async def run() -> None:
        answer = Answer(*pauses, error=OverloadedError("full") if fails else None)
        came, at, deliveries = list[int | None](), [0.0], deliveries_of(Admission(1, 0))
        reading = asyncio.create_task(read(deliveries.deliver(request(), answer.batches()), came))
        while not reading.done():
            if len(came) >= len(at):
                at.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.1)
        deliveries.received(Receipt(engine="me", reader="", request_ids=["a"]))
        await asyncio.sleep(LATE_S)
        assert len(deliveries) == 0
        assert isinstance(reading.exception(), OverloadedError if fails else type(None))
        assert [index for index in came if index is not None] == list(range(len(pauses)))
        assert max((b - a for a, b in itertools.pairwise(at)), default=0.0) <= HEARTBEAT_S + 0.2
        assert answer.closed

    in_virtual_time(run())


def test_an_answer_that_has_arrived_ends_and_keeps_no_place() -> None:
    async def run() -> None:
        admission, answer, came = Admission(1, 0), Answer(1.0, 0.0), list[int | None]()
        deliveries = deliveries_of(admission)
        reader = asyncio.create_task(read(deliveries.deliver(request(), answer.batches()), came))
        await asyncio.sleep(1.0 + LATE_S / 2)
        assert (came, admission.open, len(deliveries), reader.done()) == ([0, 1], 0, 1, True)
        assert deliveries.received(Receipt(engine="me", reader="", request_ids=["a", "never heard of"]))
        await asyncio.sleep(LATE_S)
        assert (admission.open, len(deliveries)) == (0, 0)
        assert not deliveries.received(Receipt(engine="another", reader="", request_ids=["a"]))

    in_virtual_time(run())


def test_what_the_ingress_has_not_passed_on_is_still_in_the_queue() -> None:
    async def run() -> None:
        admission = Admission(2, 0)
        deliveries = deliveries_of(admission)
        await asyncio.gather(
            *(read(deliveries.deliver(request(name), Answer(1.0).batches()), []) for name in ("a", "b"))
        )
        await asyncio.sleep(LATE_S * 2)
        assert admission.open == 2
        with pytest.raises(OverloadedError):
            admission.admit(1, EngineStats()).__enter__()
        deliveries.received(Receipt(engine="me", reader="", request_ids=["b"]))
        await asyncio.sleep(0)
        with admission.admit(1, EngineStats()):
            assert admission.open == 2
        await asyncio.sleep(RECEIPT_S)
        assert admission.open == 0, "somebody who says nothing would keep its place for ever"

    in_virtual_time(run())


@pytest.mark.parametrize("at", [0.5, 0.999999])
def test_a_reader_that_leaves_frees_everything(at: float) -> None:

    async def run() -> None:
        admission, answer = Admission(1, 0), Answer(1.0)
        deliveries = deliveries_of(admission)
        reader = asyncio.create_task(read(deliveries.deliver(request(), answer.batches()), []))
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
            await read(deliveries_of(Admission(1, 0)).deliver(request(), answer.batches()), came)
        assert came == [0, None, 1]

    in_virtual_time(run())


def test_an_ingress_that_says_it_lags_gets_fewer_messages_and_no_other_does() -> None:
    """And its answers are whole all the same."""

    async def run() -> None:
        deliveries = deliveries_of(Admission(2, 0))
        messages: dict[str, list[News]] = {"slow": [], "quick": []}

        async def listen(reader: str) -> None:
            async with aclosing(deliveries.attach(Attach(engine="me", reader=reader))) as news:
                async for message in news:
                    messages[reader].append(message)

        async def ask(reader: str) -> list[Item]:
            wanted = msgspec.structs.replace(request(reader), reader=reader)
            return [item async for item in deliveries.deliver(wanted, Answer(*[0.01] * 100).batches())]

        listeners = [asyncio.create_task(listen(reader)) for reader in messages]
        await asyncio.sleep(0)
        assert deliveries.received(Receipt(engine="me", reader="slow", request_ids=[], lag_s=LONGEST_INTERVAL_S))
        assert deliveries.received(Receipt(engine="me", reader="unheard of", request_ids=[], lag_s=9.0))
        first, _ = await asyncio.gather(*(ask(reader) for reader in messages))
        await asyncio.gather(*listeners)
        assert [item for item in first if item == ("me", None)], "the rest comes otherwise"
        for reader, found in messages.items():
            told = [delta for message in found for id, deltas in message.deltas for delta in deltas if id == reader]
            assert told[-1].index == 99
        many, few = len(messages["quick"]), len(messages["slow"])
        assert 90 < many < 110
        assert few == pytest.approx(1.0 / (LONGEST_INTERVAL_S / 2), abs=3)
        for reader in messages:
            assert deliveries.received(Receipt(engine="me", reader=reader, request_ids=[reader]))
        await asyncio.sleep(LATE_S)

    in_virtual_time(run())


def test_who_listens_to_another_replica_hears_nothing() -> None:
    async def run() -> None:
        attach = Attach(engine="another", reader="r")
        assert [message async for message in deliveries_of(Admission(1, 0)).attach(attach)] == []

    in_virtual_time(run())


def test_an_ingress_that_has_gone_leaves_no_outbox() -> None:
    async def come_and_go() -> None:
        deliveries = deliveries_of(Admission(1, 1))
        for reader in ("a", "b"):
            async with aclosing(deliveries.attach(Attach(engine="me", reader=reader))) as news:
                waiting = asyncio.ensure_future(anext(news))
                await asyncio.sleep(0.01)
                assert list(deliveries._outboxes) == [reader]
                waiting.cancel()
                await asyncio.wait([waiting])
            assert deliveries._outboxes == {}

    in_virtual_time(come_and_go())
