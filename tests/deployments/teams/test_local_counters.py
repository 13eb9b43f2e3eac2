"""Counters of one process: what is granted, settled and left, as its clock goes on."""

from __future__ import annotations

import pytest

from deployments.errors import QuotaError, RateLimitedError
from deployments.teams.counting import Allowance
from deployments.teams.local_counters import LocalCounters
from tests.support.asks import Clock, account, ask, hard


async def test_what_was_settled_drains_from_then_on() -> None:
    clock, team = Clock(), account(tokens=60)
    counters = LocalCounters(clock)
    asked = ask(team, tokens=60)
    await counters.reserve(asked)
    clock.seconds = 100.0
    with pytest.raises(RateLimitedError):
        await counters.reserve(ask(team, tokens=1))
    counters.settle(asked.id, 60, 1)
    with pytest.raises(RateLimitedError):
        await counters.reserve(ask(team, tokens=1))
    clock.seconds = 110.0
    grant = await counters.reserve(ask(team, tokens=4))
    assert grant.tokens == Allowance(limit=60, remaining=6, reset_s=54.0)


async def test_what_a_request_cost_is_told_of_its_account() -> None:
    team = account(budget=hard(100))
    counters = LocalCounters(Clock())
    asked, other = ask(team, cost=60), ask(team, cost=30)
    await counters.reserve(asked)
    await counters.reserve(other)
    counters.settle(asked.id, 5, 50)
    for _ in range(2):
        counters.settle(asked.id, 5, 50)
        counters.settle("nobody's", 5, 50)
    (use,) = await counters.budgets()
    assert (use.account, use.spent, use.reserved, use.amount) == (team.id, 50, 30, 100)
    with pytest.raises(QuotaError):
        await counters.reserve(ask(team, cost=21))
    await counters.reserve(ask(team, cost=20))
