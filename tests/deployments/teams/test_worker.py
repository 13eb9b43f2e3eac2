"""A thread that works for an event loop: what it is given at once, what it answers, and when it rests."""

from __future__ import annotations

import asyncio
import threading

import pytest

from deployments.teams.worker import Worker
from tests.support.waiting import eventually, wait_until


class Work:
    """waiting: what there is to be done. done: batches, with the thread that did them; ended: with what they came to.

    may_go_on: the thread waits for it, at each batch.
    """

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self.done: list[tuple[list[int], str]] = []
        self.ended: list[tuple[list[int], Exception | None]] = []
        self.begun = threading.Semaphore(0)
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.worker = Worker("a-worker", self._take, self._work, lambda *end: self.ended.append(end))

    def _take(self) -> list[int] | None:
        batch, self.waiting = self.waiting, []
        return batch or None

    def _work(self, batch: list[int]) -> str:
        self.begun.release()
        self.may_go_on.wait()
        self.done.append((batch, threading.current_thread().name))
        if 0 in batch:
            raise ZeroDivisionError("nothing")
        return "what nobody asks for"

    def put(self, *numbers: int) -> None:
        self.waiting += numbers
        self.worker.wake()


async def test_what_comes_while_it_works_is_done_next_and_at_once() -> None:
    work = Work()
    work.may_go_on.clear()
    assert work.worker.resting
    work.put(1)
    assert not work.worker.resting
    await asyncio.to_thread(work.begun.acquire)
    for number in (2, 3, 4):
        work.put(number)
    resting = asyncio.create_task(work.worker.rests())
    await asyncio.sleep(0)
    assert not resting.done()
    work.may_go_on.set()
    await resting
    assert work.done == [([1], "a-worker"), ([2, 3, 4], "a-worker")]
    assert work.ended == [([1], None), ([2, 3, 4], None)]
    assert work.worker.resting
    work.put()
    assert work.worker.resting, "there was nothing to do"
    work.worker.stop()


async def test_a_failure_is_told_and_ends_nothing() -> None:
    work = Work()
    work.put(0)
    await work.worker.rests()
    work.put(5)
    await work.worker.rests()
    assert [(batch, repr(error)) for batch, error in work.ended] == [
        ([0], "ZeroDivisionError('nothing')"),
        ([5], "None"),
    ]
    work.worker.stop()


async def test_something_else_is_done_between_two_batches_and_answered() -> None:
    work = Work()
    work.may_go_on.clear()
    work.put(1)
    await asyncio.to_thread(work.begun.acquire)
    divided = asyncio.create_task(work.worker.do(divmod, 7, 2))
    failed = asyncio.create_task(work.worker.do(divmod, 7, 0))
    left = asyncio.create_task(work.worker.do(work.done.append, ([9], "left")))
    await asyncio.sleep(0)
    work.put(2)
    left.cancel()
    work.may_go_on.set()
    assert await divided == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await failed
    await work.worker.rests()
    assert left.cancelled()
    assert work.done == [([1], "a-worker"), ([9], "left"), ([2], "a-worker")]
    work.worker.stop()


async def test_its_thread_begins_with_the_first_work_and_ends_with_it() -> None:
    work = Work()
    work.worker.stop()  # there is none yet
    before = {thread.ident for thread in threading.enumerate()}

    def own() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.ident not in before and thread.name == "a-worker"]

    assert not own()
    assert await work.worker.do(lambda: threading.current_thread().name) == "a-worker"
    await work.worker.do(int)
    (thread,) = own()
    assert thread.daemon
    work.put(1)
    work.worker.stop()
    await eventually(lambda: work.ended == [([1], None)])
    wait_until(lambda: not own(), "it goes on")
