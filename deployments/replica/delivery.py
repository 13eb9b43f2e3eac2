"""How answers leave a replica: with a sign of life where there is no news, and watched until they have arrived."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from deployments.protocol import Delta
from deployments.replica.admission import Admission

HEARTBEAT_S = 2.0
"""An answer without news says so after this long, so that whoever waits for it knows that the replica lives."""

LATE_S = 0.25
"""Receipts come in such a time, where the ingress keeps up."""

RECEIPT_S = 60.0
"""Whoever says nothing of an answer for so long has forgotten it."""

Batches = AsyncGenerator[list[Delta], None]


class Deliveries:
    """Answers on their way, by the request's id."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._received: dict[str, asyncio.Event] = {}

    def __len__(self) -> int:
        return len(self._received)

    def received(self, request_ids: list[str]) -> None:
        """Nobody waits for more of these. Ids that are not known, or not any more, are passed over."""
        for request_id in request_ids:
            if (event := self._received.get(request_id)) is not None:
                event.set()

    async def deliver(self, request_id: str, sequences: int, answer: Batches) -> Batches:
        """What `answer` yields, an empty batch where it has been silent for `HEARTBEAT_S`, and the end at its receipt.

        From `LATE_S` after its last batch until then it has its place in the queue again.
        """
        received = self._received[request_id] = asyncio.Event()
        try:
            async with aclosing(with_heartbeats(answer)) as batches:
                async for batch in batches:
                    yield batch
            if not await _comes(received, LATE_S):
                with self._admission.late(sequences):
                    await _comes(received, RECEIPT_S)
        finally:
            del self._received[request_id]


async def with_heartbeats(batches: Batches) -> Batches:
    """`batches`, and an empty one where none has come for `HEARTBEAT_S`. Closing it closes them."""
    waiting: list[list[Delta]] = []
    news = asyncio.Event()

    async def read() -> None:
        async with aclosing(batches):
            async for batch in batches:
                waiting.append(batch)
                news.set()

    reader = asyncio.create_task(read())
    reader.add_done_callback(lambda _: news.set())
    try:
        while True:
            if not await _comes(news, HEARTBEAT_S):
                yield []
                continue
            news.clear()
            ended = reader.done()
            arrived, waiting[:] = [*waiting], []
            for batch in arrived:
                yield batch
            if ended:
                reader.result()
                return
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


async def _comes(event: asyncio.Event, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
