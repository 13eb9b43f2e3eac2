"""Completions that people took into their text, on their way to the database: no editor waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from deployments.teams.records import Accepted
from deployments.teams.store_errors import StoreError
from monitoring import logs

FLUSH_S = 5.0

MOST_SUMS = 10_000
"""With the database away, more is forgotten: it counts what was liked, not what has to be paid."""

_HOUR = 3600


class Keeper(Protocol):
    """What is needed of `deployments.teams.store.Store`."""

    async def accepted(self, events: Sequence[Accepted]) -> None: ...


class AcceptedBuffer:
    """Sums by hour, team, key, model, dialect and user, which `run` hands over. keeper: None while there is none."""

    def __init__(self, keeper: Callable[[], Keeper | None], most: int = MOST_SUMS) -> None:
        self._keeper = keeper
        self._most = most
        self._sums: dict[tuple[object, ...], Accepted] = {}
        self._told = False
        self._handing_over: asyncio.Task[None] | None = None

    def add(self, event: Accepted) -> None:
        place = (event.at // _HOUR, event.team_id, event.key_id, event.model, event.dialect, event.user)
        known = self._sums.get(place)
        if known is not None:
            lines, completions = known.lines + event.lines, known.completions + event.completions
            self._sums[place] = msgspec.structs.replace(known, lines=lines, completions=completions)
        elif len(self._sums) < self._most:
            self._sums[place] = event

    async def run(self, flush_s: float = FLUSH_S) -> None:
        """Hand over until cancelled."""
        while True:
            await asyncio.sleep(flush_s)
            await self.flush()

    async def flush(self) -> None:
        """Hand over what is there. Never raises: where the database is away, it stays.

        What the database is told goes on where this is cancelled: nobody could say whether it has counted it.
        """
        while self._handing_over is not None and not self._handing_over.done():
            await asyncio.shield(self._handing_over)
        self._handing_over = asyncio.create_task(self._hand_over())
        await asyncio.shield(self._handing_over)

    async def _hand_over(self) -> None:
        keeper, sums = self._keeper(), self._sums
        if keeper is None or not sums:
            return
        self._sums = {}
        try:
            await keeper.accepted(list(sums.values()))
        except StoreError as error:
            self._take_back(sums)
            if not self._told:
                logs.event("teams.accepted_wait", str(error), level=logging.WARNING)
            self._told = True
        else:
            self._told = False

    def _take_back(self, sums: dict[tuple[object, ...], Accepted]) -> None:
        for event in sums.values():
            self.add(event)
