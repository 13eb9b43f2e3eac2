"""Replicas and an ingress in one loop: what stands for Serve's handle calls one side from the other, and takes time."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import msgspec

from deployments.errors import unwrap
from deployments.protocol import Attach, Delta, GenerationRequest, Receipt
from deployments.replica.admission import Admission
from deployments.replica.delivery import Deliveries

Answer = Callable[[GenerationRequest], AsyncGenerator[list[Delta], None]]


class LoopbackReplica:
    """The part of `deployments.replica.replica.EngineReplica` that talks to ingresses. answer: what the engine does.

    leaving: Serve leads no calls to it any more. messages: for all answers together.
    """

    def __init__(self, name: str, answer: Answer) -> None:
        self.name = name
        self.admission = Admission(1000, 0)
        self.deliveries = Deliveries(
            name, self.admission, lambda _, error: unwrap(error), asyncio.get_running_loop().time
        )
        self.leaving = False
        self.messages = 0
        self._answer = answer
        self._open: set[Call] = set()
        self.attached: set[Call] = set()

    def stream(self, request: GenerationRequest, whole: bool) -> Call:
        return self._call(self.deliveries.deliver(request, self._answer(request)))

    def attach(self, attach: Attach) -> Call:
        call = self._call(self._encoded(attach))
        self.attached.add(call)
        return call

    async def _encoded(self, attach: Attach) -> AsyncGenerator[bytes, None]:
        async with aclosing(self.deliveries.attach(attach)) as messages:
            async for message in messages:
                self.messages += 1
                yield msgspec.msgpack.encode(message)

    def _call(self, items: AsyncGenerator[Any, None]) -> Call:
        call = Call(items)
        self._open.add(call)
        return call

    def break_connections(self) -> None:
        for call in self._open:
            call.break_off()

    def break_attached(self, error: BaseException) -> None:
        """Only those on which an ingress hears of all its answers together. error: what it gets."""
        for call in self.attached:
            call.break_off(error)


class Call:
    """One call in progress, as Serve's response for it. It takes up to `delay_s` for each item to arrive."""

    def __init__(self, items: AsyncGenerator[Any, None], delay_s: float = 0.001) -> None:
        self._replica_result_future: Future[None] = Future()
        self._replica_result_future.set_result(None)
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(items, delay_s))
        self.cancelled = False
        self._broken: BaseException = ConnectionError("it broke")

    async def _run(self, items: AsyncGenerator[Any, None], delay_s: float) -> None:
        try:
            async with aclosing(items):
                async for item in items:
                    await asyncio.sleep(delay_s)
                    self._queue.put_nowait(pickle.loads(pickle.dumps(item)))
        except asyncio.CancelledError:
            self._queue.put_nowait(self._broken)
            raise
        except Exception as error:
            self._queue.put_nowait(error)
        else:
            self._queue.put_nowait(StopAsyncIteration())

    def cancel(self) -> None:
        self.cancelled = True
        self._task.cancel()

    def break_off(self, error: BaseException | None = None) -> None:
        self._broken = error or self._broken
        self._task.cancel()

    async def __anext__(self) -> Any:
        item = await self._queue.get()
        if isinstance(item, StopAsyncIteration | ConnectionError | asyncio.CancelledError):
            raise item
        return item

    def __await__(self) -> Generator[Any, None, Any]:
        return self.__anext__().__await__()


def handle(replicas: list[LoopbackReplica]) -> Any:
    """A handle that leads each request to the first replica, and each other call to its addressee where it can."""

    def addressed(call: Attach | Receipt) -> LoopbackReplica:
        reachable = [replica for replica in replicas if not replica.leaving]
        return next((replica for replica in reachable if replica.name == call.engine), reachable[0])

    async def received(receipt: Receipt) -> AsyncGenerator[bool, None]:
        yield addressed(receipt).deliveries.received(receipt)

    methods = {
        "stream": lambda request, whole: replicas[0].stream(request, whole),
        "attach": lambda attach: addressed(attach).attach(attach),
        "received": lambda receipt: Call(received(receipt)),
    }
    made = SimpleNamespace(**{name: SimpleNamespace(remote=method) for name, method in methods.items()})
    made.options = lambda **_: made
    return made
