"""Requests that ask for room, and a time for them that passes when a test says so."""

from __future__ import annotations

import asyncio
import itertools

from deployments.teams.counting import Account, Ask
from deployments.teams.records import Budget, Limits, Period, Spent
from deployments.teams.tally import Now

NOON = 1_800_014_400.0
"""12:00 UTC on a Friday, in the middle of a month."""

_numbers = itertools.count()


def account(
    name: str = "team:a",
    requests: int | None = None,
    tokens: int | None = None,
    parallel: int | None = None,
    budget: Budget | None = None,
    spent: Spent | None = None,
) -> Account:
    limits = Limits(requests_per_minute=requests, tokens_per_minute=tokens, parallel=parallel)
    return Account(id=name, limits=limits, budget=budget, spent=spent)


def hard(amount: int, period: Period = "day") -> Budget:
    return Budget(amount=amount, period=period, hard=True)


def ask(*accounts: Account, tokens: int = 1, cost: int = 1, id: str | None = None) -> Ask:
    return Ask(id=id or f"ask-{next(_numbers)}", accounts=accounts, tokens=tokens, cost=cost)


class Clock:
    """Stands still until it is moved on."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> Now:
        return at(self.seconds)


def at(seconds: float) -> Now:
    return Now(round(seconds * 1e9), NOON + seconds)


def loop_clock() -> Now:
    """The time of the running event loop."""
    return at(asyncio.get_running_loop().time())
