"""From the journal to the database: whatever waits, as soon as it is there, and until it is."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

import msgspec

from deployments.teams.journal import MOST_AT_ONCE, Book, Journal
from deployments.teams.store_errors import StoreUnavailableError
from monitoring import logs

PERIOD_S = 1.0
"""So long rows wait for others to be booked with."""

ADOPTED_S = 10.0
"""Journals of dead processes are looked for so often."""

SHORTEST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """booked: entries since the last time. refused: those that the database refuses for good. waiting: rows. oldest_s:
    since the oldest of them ended; 0 for none.
    """

    booked: int
    refused: int
    waiting: int
    oldest_s: float


class Drainer:
    """Books what the journal of this process, and those of dead ones on its node, hold.

    book: `Store.book`. on_progress: hears how it stands, about once a period.
    """

    def __init__(
        self,
        journal: Journal,
        book: Book,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        clock: Callable[[], float] = time.time,
        draws: random.Random | None = None,
        period_s: float = PERIOD_S,
    ) -> None:
        self._journal = journal
        self._book = book
        self._on_progress = on_progress
        self._clock = clock
        self._draws = draws or random.Random()
        self._period_s = period_s
        self._failures = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self, within_s: float) -> None:
        """Once more, and give up after so many seconds: the next process on this node finds the rest."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        try:
            async with asyncio.timeout(within_s):
                await self.drain()
        except TimeoutError:
            logs.event("usage.left_in_journal", f"not booked within {within_s:g} s", level=logging.WARNING)
        except Exception as error:
            logs.event("usage.left_in_journal", level=logging.WARNING, exception=logs.describe(error))

    async def drain(self) -> int:
        """Book all that waits now. Returns how many rows, with those that the database refuses for good.

        Raises StoreUnavailableError, and OSError where the disk fails.
        """
        handled, rows, refused_before = 0, MOST_AT_ONCE, self._journal.refused
        try:
            while rows == MOST_AT_ONCE:
                rows = await self._journal.drain(self._book)
                handled += rows
        finally:
            waiting = await self._journal.waiting()
            oldest_s = 0.0 if waiting.oldest_at is None else max(0.0, self._clock() - waiting.oldest_at)
            refused = self._journal.refused - refused_before
            booked = handled - refused
            self._on_progress(Progress(booked=booked, refused=refused, waiting=waiting.rows, oldest_s=oldest_s))
        return handled

    async def _run(self) -> None:
        adopt_at = 0.0
        while True:
            try:
                if (now := asyncio.get_running_loop().time()) >= adopt_at:
                    await self._journal.adopt()
                    adopt_at = now + ADOPTED_S
                await self.drain()
                self._failures = 0
                pause_s = self._period_s
            except Exception as error:
                pause_s = self._failed(error)
            await asyncio.sleep(pause_s)

    def _failed(self, error: Exception) -> float:
        """How long to wait: each time twice as long, and up to half of it less by chance, since others wait, too."""
        if not self._failures:
            if isinstance(error, StoreUnavailableError):
                logs.event("usage.not_booked", str(error), level=logging.WARNING)
            else:
                logs.event("usage.not_booked", level=logging.ERROR, exception=logs.describe(error))
        pause_s = min(LONGEST_PAUSE_S, SHORTEST_PAUSE_S * 2 ** min(self._failures, 10))
        self._failures += 1
        return pause_s * self._draws.uniform(0.5, 1.0)
