"""How many sequences one engine may hold, and when a refused client should come back."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from deployments.errors import InvalidRequestError, OverloadedError
from model.statistics import EngineStats

RATE_WINDOW_S = 30.0
RETRY_AFTER_BOUNDS_S = (1.0, 60.0)


@dataclass(eq=False)
class Lease:
    """Room for some sequences, given back once: at the end, or before."""

    admission: Admission
    sequences: int

    def release(self) -> None:
        if self.sequences:
            self.admission.give_back(self.sequences)
            self.sequences = 0


class Admission:
    """Bounds the queue of one engine, whoever asks: every handle and every ingress process meets this one.

    max_running: sequences the engine runs at once; max_waiting: sequences that may wait beyond them.
    open: sequences admitted and not finished, and those whose answers arrive late.
    """

    def __init__(self, max_running: int, max_waiting: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.open = 0
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._clock = clock
        self._finished: deque[tuple[float, int]] = deque()

    @contextmanager
    def admit(self, sequences: int, stats: EngineStats) -> Iterator[Lease]:
        """Hold room for `sequences` for the length of the block.

        Raises OverloadedError where there is none now, InvalidRequestError where there never will be.
        Cache blocks can run out before `max_running` is reached; then the engine's own count of waiting
        sequences is what is bounded.
        """
        if sequences > self._max_running + self._max_waiting:
            raise InvalidRequestError(
                f"The request asks for {sequences} completions; this server holds at most "
                f"{self._max_running + self._max_waiting} at once.",
                param="n",
                code="too_many_completions",
            )
        waiting = min(stats.waiting, self.open)
        full = self.open + sequences > self._max_running + self._max_waiting
        if full or (waiting and waiting + sequences > self._max_waiting):
            retry_after = self.retry_after(max(waiting, self.open - self._max_running, 0) + sequences)
            raise OverloadedError(
                f"The queue is full: {self.open} sequences run or wait. Try again in {retry_after:.0f} s.",
                retry_after=retry_after,
            )
        self.open += sequences
        lease = Lease(self, sequences)
        try:
            yield lease
        finally:
            lease.release()

    @contextmanager
    def late(self, sequences: int) -> Iterator[None]:
        """They have finished, but their answer has not arrived: for the length of the block they are open again.

        An ingress that cannot keep up is no reason for the engine to take more work.
        """
        self.open += sequences
        try:
            yield
        finally:
            self.open -= sequences

    def give_back(self, sequences: int) -> None:
        self.open -= sequences
        self._finished.append((self._clock(), sequences))

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
