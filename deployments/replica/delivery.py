"""How answers leave a replica: with a sign of life where there is no news, and watched until they have arrived.

The first news of an answer leave on the call that asked for it. If its ingress listens by then, the others leave
together with those of its other answers (`deployments.replica.outbox`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from deployments.errors import ServeError
from deployments.protocol import Attach, Delta, GenerationRequest, News, Receipt
from deployments.replica.admission import Admission
from deployments.replica.outbox import HEARTBEAT_S, Outbox, comes

LATE_S = 0.25
"""Receipts come in such a time, where the ingress keeps up."""

RECEIPT_S = 30.0
"""Whoever says nothing of an answer for so long has forgotten it."""

Batches = AsyncGenerator[list[Delta], None]
Item = tuple[str, list[Delta] | None] | ServeError
"""The replica's name with news, an empty list as a sign of life, None: the rest comes otherwise. Or why it failed."""


class Deliveries:
    """Answers on their way. name: of this replica. failed: what the ingress is told of an exception."""

    def __init__(
        self,
        name: str,
        admission: Admission,
        failed: Callable[[GenerationRequest, Exception], ServeError],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._name = name
        self._admission = admission
        self._failed = failed
        self._received: dict[str, asyncio.Event] = {}
        self._outboxes: dict[str, Outbox] = {}
        self._arrivals: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._received)

    def received(self, receipt: Receipt) -> bool:
        """Nobody waits for more of these; unknown ids are passed over. False where it came to the wrong replica."""
        if receipt.engine != self._name:
            return False
        for request_id in receipt.request_ids:
            if (event := self._received.get(request_id)) is not None:
                event.set()
        if receipt.lag_s is not None and (outbox := self._outboxes.get(receipt.reader)) is not None:
            outbox.lags(receipt.lag_s)
        return True

    async def attach(self, attach: Attach) -> AsyncGenerator[News, None]:
        """Everything for one ingress; nothing at all where it came to the wrong replica."""
        if attach.engine != self._name:
            return
        outbox = self._outboxes.setdefault(attach.reader, Outbox(self._clock))
        try:
            async with aclosing(outbox.messages()) as messages:
                async for message in messages:
                    yield message
        finally:
            if not outbox.attached:
                self._outboxes.pop(attach.reader, None)

    async def deliver(self, request: GenerationRequest, batches: Batches) -> AsyncGenerator[Item, None]:
        """What its ingress gets on the call that asked for it.

        From `LATE_S` after its last batch until the receipt an answer has its place in the queue again.
        """
        answer = _Answer(request.request_id)
        received = self._received[request.request_id] = asyncio.Event()
        reader = asyncio.create_task(self._read(request, batches, answer))
        reader.add_done_callback(lambda _: answer.news.set())
        answer.reader = reader
        whole = False
        try:
            async for item in answer.items():
                yield item if isinstance(item, ServeError) else (self._name, item)
            if not reader.done():
                await asyncio.wait([reader])
            if reader.cancelled() or answer.failed is not None:
                return
            reader.result()
            whole = True
            arrival = asyncio.create_task(self._arrive(request, received))
            self._arrivals.add(arrival)
            arrival.add_done_callback(self._arrivals.discard)
        finally:
            if not whole:
                self._forget(request, received)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            answer.end()

    async def _arrive(self, request: GenerationRequest, received: asyncio.Event) -> None:
        try:
            if not await comes(received, LATE_S):
                with self._admission.late(request.unfinished, request.tenant, request.weight):
                    await comes(received, RECEIPT_S)
        finally:
            self._forget(request, received)

    def _forget(self, request: GenerationRequest, received: asyncio.Event) -> None:
        if self._received.get(request.request_id) is received:
            del self._received[request.request_id]

    async def _read(self, request: GenerationRequest, batches: Batches, answer: _Answer) -> None:
        try:
            async with aclosing(batches):
                async for batch in batches:
                    answer.put(batch, self._outboxes.get(request.reader))
        except Exception as error:
            answer.fail(self._failed(request, error))


class _Answer:
    """One answer on its way. failed: why it ends before its end, if it does."""

    def __init__(self, request_id: str) -> None:
        self.news = asyncio.Event()
        self.reader: asyncio.Task[None]
        self.failed: ServeError | None = None
        self._id = request_id
        self._outbox: Outbox | None = None
        self._waiting: list[list[Delta]] = []
        self._begun = False

    def put(self, batch: list[Delta], outbox: Outbox | None) -> None:
        """outbox: of its ingress, where that listens."""
        if self._outbox is None and self._begun and outbox is not None and outbox.attached:
            self._outbox = outbox
            outbox.begin(self._id, self.reader.cancel)
            self.news.set()
        if self._outbox is not None:
            self._outbox.put(self._id, batch)
            return
        self._begun = True
        self._waiting.append(batch)
        self.news.set()

    def fail(self, error: ServeError) -> None:
        self.failed = error
        if self._outbox is not None:
            self._outbox.fail(self._id, error)

    def end(self) -> None:
        if self._outbox is not None:
            self._outbox.end(self._id)

    async def items(self) -> AsyncGenerator[list[Delta] | ServeError | None, None]:
        """Until it is at its end, or travels otherwise."""
        while True:
            if not await comes(self.news, HEARTBEAT_S):
                yield []
                continue
            self.news.clear()
            ended, elsewhere = self.reader.done(), self._outbox is not None
            arrived, self._waiting = self._waiting, []
            for batch in arrived:
                yield batch
            if elsewhere:
                yield None
                return
            if ended:
                if self.failed is not None:
                    yield self.failed
                return
