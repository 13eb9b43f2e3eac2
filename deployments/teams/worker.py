"""Work in a thread for whoever is in the event loop: all that waits at once, as one piece."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar, TypeVarTuple

Batch = TypeVar("Batch")
Result = TypeVar("Result")
Values = TypeVarTuple("Values")


class Worker(Generic[Batch]):
    """A thread with one thing to do at a time. To be used in one event loop.

    take: what there is to be done by now; None: nothing. work: does it, in the thread. ended: hears in the event loop
    that it is done, or why not.
    """

    def __init__(
        self,
        name: str,
        take: Callable[[], Batch | None],
        work: Callable[[Batch], object],
        ended: Callable[[Batch, Exception | None], None],
    ) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._take = take
        self._work = work
        self._ended = ended
        self._resting = asyncio.Event()
        self._resting.set()

    @property
    def resting(self) -> bool:
        """Whether all that there was to do is done."""
        return self._resting.is_set()

    async def rests(self) -> None:
        """Return when it does."""
        await self._resting.wait()

    def wake(self) -> None:
        """There is something to do: now, or with what comes while it is at work."""
        if self.resting:
            self._go_on()

    async def do(self, work: Callable[[*Values], Result], *values: *Values) -> Result:
        """Something else, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *values)

    def stop(self) -> None:
        """Once it rests."""
        self._thread.shutdown(wait=False)

    def _go_on(self) -> None:
        if (batch := self._take()) is None:
            self._resting.set()
            return
        self._resting.clear()
        in_thread(self._thread, self._work, batch, self._done)

    def _done(self, batch: Batch, error: Exception | None) -> None:
        self._ended(batch, error)
        self._go_on()


def in_thread(
    thread: ThreadPoolExecutor,
    work: Callable[[Batch], object],
    batch: Batch,
    done: Callable[[Batch, Exception | None], None],
) -> None:
    """`done` is called in the next turn of this event loop: futures would take three."""
    loop = asyncio.get_running_loop()

    def run() -> None:
        error = None
        try:
            work(batch)
        except Exception as failure:  # whatever it is, somebody waits for an answer
            error = failure
        loop.call_soon_threadsafe(done, batch, error)

    thread.submit(run)
