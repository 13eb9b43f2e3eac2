"""Work in a thread for whoever is in the event loop: all that waits at once, as one piece."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
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
        self._name = name
        self._take = take
        self._work = work
        self._ended = ended
        self._jobs: SimpleQueue[Callable[[], None] | None] | None = None
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
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def ended(result: Result | None, error: Exception | None) -> None:
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]

        self._in_thread(lambda: work(*values), ended)
        return await done

    def stop(self) -> None:
        """Once it rests."""
        if self._jobs is not None:
            self._jobs.put(None)

    def _go_on(self) -> None:
        if (batch := self._take()) is None:
            self._resting.set()
            return
        self._resting.clear()

        def ended(result: object, error: Exception | None) -> None:
            self._ended(batch, error)
            self._go_on()

        self._in_thread(lambda: self._work(batch), ended)

    def _in_thread(self, work: Callable[[], Result], ended: Callable[[Result | None, Exception | None], None]) -> None:
        """`ended` is called in the next turn of this event loop; an executor takes three, and five times the work."""
        loop = asyncio.get_running_loop()

        def job() -> None:
            result, error = None, None
            try:
                result = work()
            except Exception as failure:  # whatever it is, somebody waits for an answer
                error = failure
            loop.call_soon_threadsafe(ended, result, error)

        if self._jobs is None:
            self._jobs = SimpleQueue()
            threading.Thread(target=_run, args=(self._jobs,), name=self._name, daemon=True).start()
        self._jobs.put(job)


def _run(jobs: SimpleQueue[Callable[[], None] | None]) -> None:
    while (job := jobs.get()) is not None:
        job()
