"""Counters of a server with one ingress process."""

from __future__ import annotations

from collections.abc import Callable

from deployments.errors import ServeError
from deployments.teams.book import Book, Settlement
from deployments.teams.counting import Ask, BudgetUse, Grant
from deployments.teams.tally import Now


class LocalCounters:
    """`deployments.teams.counting.Counters` in this process."""

    def __init__(self, clock: Callable[[], Now] = Now.read) -> None:
        self.book = Book()
        self._clock = clock

    async def reserve(self, ask: Ask) -> Grant:
        answer = self.book.reserve(ask, self._clock())
        if isinstance(answer, ServeError):
            raise answer
        return answer

    def settle(self, id: str, tokens: int, cost: int) -> None:
        self.book.settle(Settlement(id, tokens, cost), self._clock())

    async def budgets(self) -> list[BudgetUse]:
        return self.book.budgets(self._clock())

    async def close(self) -> None:
        pass
