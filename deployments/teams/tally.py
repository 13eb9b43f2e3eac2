"""What is counted of one account: requests and tokens a minute, requests at once, and money."""

from __future__ import annotations

import time
from typing import NamedTuple

from deployments.teams.buckets import Bucket
from deployments.teams.counting import Account, Allowance, BudgetUse
from deployments.teams.periods import period_start
from deployments.teams.spending import Spending

REMEMBERED_NS = 3600 * 10**9
"""A budget is counted so long after anybody asked about it, whatever the calendar says: by then all is booked."""


class Now(NamedTuple):
    """ns: of a clock that never goes back. wall: Unix seconds, for the calendar."""

    ns: int
    wall: float

    @classmethod
    def read(cls) -> Now:
        return cls(time.monotonic_ns(), time.time())


class Tally:
    """Reserved tokens count until the request ends, and then those that it used; only these drain. So no more is used
    in a minute than the limit lets in, however long requests take, and what was reserved too much is free at once.

    account: as it was last seen.
    """

    __slots__ = ("_budget_ns", "account", "open", "requests", "spending", "tokens", "tokens_reserved")

    def __init__(self, account: Account) -> None:
        self.account = account
        self.open = 0
        self.requests = Bucket()
        self.tokens = Bucket()
        self.tokens_reserved = 0
        self.spending = Spending()
        self._budget_ns = -REMEMBERED_NS

    def follow(self, account: Account, now: Now) -> None:
        """To be called before anything is asked or held, with what is known of the account now."""
        self.account = account
        if account.budget is not None:
            self.spending.follow(period_start(account.budget.period, now.wall), account.spent)
            self._budget_ns = now.ns

    def hold(self, tokens: int, cost: int, now: Now) -> None:
        """Whether it has room or not."""
        self.open += 1
        self.tokens_reserved += tokens
        self.spending.reserve(cost, now.wall)
        self.use(1, 0, 0, now.wall, now)

    def release(self, tokens: int, cost: int, since: float) -> None:
        """What was held. since: when, in Unix seconds."""
        self.open -= 1
        self.tokens_reserved -= tokens
        self.spending.release(cost, since)

    def use(self, requests: int, tokens: int, cost: int, since: float, now: Now) -> None:
        """since: when it began, in Unix seconds."""
        limits = self.account.limits
        if limits.requests_per_minute is not None:
            self.requests.add(requests, limits.requests_per_minute, now.ns)
        if limits.tokens_per_minute is not None:
            self.tokens.add(tokens, limits.tokens_per_minute, now.ns)
        self.spending.add(cost, since)

    def requests_left(self, now: Now) -> Allowance | None:
        limit = self.account.limits.requests_per_minute
        return None if limit is None else _allowance(self.requests, limit, 0, now)

    def tokens_left(self, now: Now) -> Allowance | None:
        limit = self.account.limits.tokens_per_minute
        return None if limit is None else _allowance(self.tokens, limit, self.tokens_reserved, now)

    def budget_use(self, now: Now) -> BudgetUse | None:
        """None where it has none, or was not seen yet in its present period."""
        budget, start = self.account.budget, self.spending.period_start
        if budget is None or start != period_start(budget.period, now.wall):
            return None
        return BudgetUse(
            account=self.account.id,
            period_start=start,
            spent=self.spending.spent,
            reserved=self.spending.reserved,
            amount=budget.amount,
            hard=budget.hard,
        )

    def is_idle(self, now: Now) -> bool:
        """Whether it says nothing that a new one would not."""
        drained = self.requests.is_empty(now.ns) and self.tokens.is_empty(now.ns)
        is_counted = self.budget_use(now) is not None or now.ns - self._budget_ns < REMEMBERED_NS
        return self.open == 0 and drained and not is_counted


def _allowance(bucket: Bucket, limit: int, held: int, now: Now) -> Allowance:
    left = max(0, bucket.left(limit, held, now.ns))
    return Allowance(limit=limit, remaining=left, reset_s=bucket.wait_ns(limit, limit, held, now.ns) / 10**9)
