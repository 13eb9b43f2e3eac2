"""How many sequences one engine may hold, whose they are, and when a refused client should come back."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from deployments.errors import InvalidRequestError, OverloadedError
from model.statistics import EngineStats

RATE_WINDOW_S = 30.0
RETRY_AFTER_BOUNDS_S = (1.0, 60.0)

Batch = TypeVar("Batch")


class Answer(Protocol):
    """What somebody waits for: a future."""

    def done(self) -> bool: ...
    def cancel(self) -> bool: ...


@dataclass(eq=False)
class _Tenant:
    """What is open of one tenant. waiters: those that have no answer yet, the oldest first."""

    weight: float
    open: int = 0
    waiters: dict[Lease, Answer] = field(default_factory=dict)


@dataclass(eq=False)
class Lease:
    """Room for some sequences, given back once: at the end, or before. displaced: another tenant has it now."""

    admission: Admission
    tenant: str
    sequences: int
    displaced: bool = False

    def release(self) -> None:
        if self.sequences:
            self.admission.give_back(self)

    async def first(self, batches: AsyncGenerator[Batch, None]) -> Batch | None:
        """The first of the answer, None where it has none. Until it is there the place may be lost to another tenant.

        Raises OverloadedError where it is.
        """
        answer = asyncio.ensure_future(_next(batches))
        try:
            with self.admission.waits(self, answer):
                return await answer
        except asyncio.CancelledError:
            if self.displaced:
                raise self.admission.overloaded("Others with less in the queue came, and it was full.") from None
            raise


async def _next(batches: AsyncGenerator[Batch, None]) -> Batch | None:
    return await anext(batches, None)


class Admission:
    """Bounds the queue of one engine, whoever asks: every handle and every ingress process meets this one.

    Where it is full, a tenant that has less of it than another one, by weight, gets the other's place, if that has no
    answer yet: so a flood leaves room for all, and whoever is alone may have everything.

    max_running: sequences the engine runs at once; max_waiting: sequences that may wait beyond them.
    open: sequences admitted and not finished, and those whose answers arrive late.
    """

    def __init__(self, max_running: int, max_waiting: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.open = 0
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._clock = clock
        self._tenants: dict[str, _Tenant] = {}
        self._finished: deque[tuple[float, int]] = deque()
        self._waiting = 0

    @contextmanager
    def admit(self, sequences: int, stats: EngineStats, tenant: str = "", weight: float = 1.0) -> Iterator[Lease]:
        """Hold room for `sequences` for the length of the block.

        Raises OverloadedError where there is none now, InvalidRequestError where there never will be.
        Cache blocks can run out before `max_running` is reached; then the engine's own count of waiting
        sequences is what is bounded. Else some of them are only waiting for its next step.
        """
        most = self._max_running + self._max_waiting
        if sequences > most:
            raise InvalidRequestError(
                f"The request asks for {sequences} completions; this server holds at most {most} at once.",
                param="n",
                code="too_many_completions",
            )
        self._waiting = waiting = min(stats.waiting, self.open)
        room = min(most, self.open - waiting + self._max_waiting) if waiting and stats.lacks_blocks else most
        missing = self.open + sequences - room
        if missing > 0:
            displaced = self._displaceable(missing, tenant, sequences, weight)
            if not displaced:
                raise self.overloaded(f"The queue is full: {self.open} sequences run or wait.", sequences)
            for lease, answer in displaced:
                lease.displaced = True
                self._give_back(lease)
                answer.cancel()
        self._take(tenant, sequences, weight)
        lease = Lease(self, tenant, sequences)
        try:
            yield lease
        finally:
            lease.release()

    @contextmanager
    def waits(self, lease: Lease, answer: Answer) -> Iterator[None]:
        """For the length of the block another tenant may get its place, until the answer is there."""
        waiters = self._tenants[lease.tenant].waiters if lease.sequences else {}
        waiters[lease] = answer
        try:
            yield
        finally:
            waiters.pop(lease, None)

    @contextmanager
    def late(self, sequences: int, tenant: str = "", weight: float = 1.0) -> Iterator[None]:
        """They have finished, but their answer has not arrived: for the length of the block they are open again.

        An ingress that cannot keep up is no reason for the engine to take more work.
        """
        self._take(tenant, sequences, weight)
        lease = Lease(self, tenant, sequences)
        try:
            yield
        finally:
            self._give_back(lease)

    def give_back(self, lease: Lease) -> None:
        """They have finished."""
        self._finished.append((self._clock(), lease.sequences))
        self._give_back(lease)

    def overloaded(self, why: str, sequences: int = 1) -> OverloadedError:
        """For a request of so many sequences that has no room."""
        retry_after = self.retry_after(max(self._waiting, self.open - self._max_running, 0) + sequences)
        return OverloadedError(f"{why} Try again in {retry_after:.0f} s.", retry_after=retry_after)

    def _displaceable(self, missing: int, tenant: str, sequences: int, weight: float) -> list[tuple[Lease, Answer]]:
        """The newest waiters of those who have most, until there is room for so many more; nobody if that cannot be.

        Only of tenants that have more now than the one who asks would have then: nobody takes a place twice.
        """
        asking = self._tenants.get(tenant)
        wanted = ((asking.open if asking is not None else 0) + sequences) / weight
        loads = {name: other.open for name, other in self._tenants.items() if name != tenant}
        newest = {name: reversed(self._tenants[name].waiters.items()) for name in loads}
        found: list[tuple[Lease, Answer]] = []
        while missing > 0:
            most = max(loads, key=lambda name: loads[name] / self._tenants[name].weight, default=None)
            if most is None or loads[most] / self._tenants[most].weight <= wanted:
                return []
            waiter = next((one for one in newest[most] if not one[1].done()), None)
            if waiter is None:
                del loads[most]  # all of its others are being answered
                continue
            found.append(waiter)
            loads[most] -= waiter[0].sequences
            missing -= waiter[0].sequences
        return found

    def _take(self, tenant: str, sequences: int, weight: float) -> None:
        self.open += sequences
        one = self._tenants.setdefault(tenant, _Tenant(weight))
        one.open += sequences
        one.weight = weight

    def _give_back(self, lease: Lease) -> None:
        self.open -= lease.sequences
        one = self._tenants[lease.tenant]
        one.open -= lease.sequences
        one.waiters.pop(lease, None)
        if not one.open:
            del self._tenants[lease.tenant]
        lease.sequences = 0

    def retry_after(self, excess: int) -> float:
        """Seconds until `excess` sequences will have finished, at the rate of the last half minute."""
        now = self._clock()
        while self._finished and self._finished[0][0] < now - RATE_WINDOW_S:
            self._finished.popleft()
        low, high = RETRY_AFTER_BOUNDS_S
        if not self._finished:
            return 5.0
        # A young server has not watched for a whole window yet.
        elapsed = max(now - self._finished[0][0], 1.0)
        rate = sum(count for _, count in self._finished) / elapsed
        return min(max(excess / rate, low), high)
