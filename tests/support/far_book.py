"""A shared book in this process that can be away, die, and let answers get lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from deployments.errors import ServeError
from deployments.teams.book import Settlement
from deployments.teams.counting import Ask, BudgetUse, Grant
from deployments.teams.shared_book import News, SharedBook, State
from deployments.teams.shared_counters import BookAwayError
from deployments.teams.tally import Now

T = TypeVar("T")


class FarBook:
    """`deployments.teams.shared_counters.RemoteBook`. delay_s: each way.

    is_away: nothing reaches it. loses_answers: calls reach it, and hang. calls: how many reached it. settled: how many
    settlements were told by joining.
    """

    def __init__(self, clock: Callable[[], Now], delay_s: float = 0.001) -> None:
        self.is_away = self.loses_answers = False
        self.calls = self.settled = 0
        self._clock = clock
        self._delay_s = delay_s
        self.shared = SharedBook(clock())

    def die(self) -> None:
        """A new one takes its place that knows nothing."""
        self.shared = SharedBook(self._clock(), succeeds=True)

    async def reserve(self, name: str, ask: Ask, settled: list[Settlement]) -> Grant | ServeError | None:
        return await self._call(lambda: self.shared.reserve(name, ask, settled, self._clock()))

    async def tell(self, name: str, news: News) -> bool:
        return await self._call(lambda: self.shared.tell(name, news, self._clock()))

    async def join(self, name: str, state: State) -> None:
        await self._call(lambda: self.shared.join(name, state, self._clock()))
        self.settled += len(state.settled)

    async def leave(self, name: str, settled: list[Settlement]) -> None:
        await self._call(lambda: self.shared.leave(name, settled, self._clock()))

    async def budgets(self) -> list[BudgetUse]:
        return await self._call(lambda: self.shared.budgets(self._clock()))

    async def _call(self, call: Callable[[], T]) -> T:
        await asyncio.sleep(self._delay_s)
        if self.is_away:
            raise BookAwayError
        self.calls += 1
        answer = call()
        if self.loses_answers:
            await asyncio.Event().wait()
        await asyncio.sleep(self._delay_s)
        return answer
