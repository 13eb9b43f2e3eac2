"""Counting what is used before it is used: the worst case is reserved, then settled to what was computed."""

from __future__ import annotations

from typing import Protocol

import msgspec

from deployments.teams.records import NO_LIMITS, Budget, Limits, Spent


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One whose use is counted, with what it may use.

    id: `team:` and the team's, or `key:` and the key's. spent: what the database says of the budget's period, as it was
    a moment ago.
    """

    id: str
    limits: Limits = NO_LIMITS
    budget: Budget | None = None
    spent: Spent | None = None


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a request may use at the most, of each of its accounts alike.

    id: of the ledger entry. accounts: the team, then the key. tokens: of the prompts and, for every completion that is
    computed, `max_tokens`. cost: of those, picodollars.
    """

    id: str
    accounts: tuple[Account, ...]
    tokens: int
    cost: int


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """limit: a minute. remaining: now. reset_s: seconds until `remaining` is `limit` again, if nothing is used."""

    limit: int
    remaining: int
    reset_s: float


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What is left, of the account that has the least left; None where there is no limit."""

    requests: Allowance | None = None
    tokens: Allowance | None = None


class BudgetUse(msgspec.Struct, frozen=True, kw_only=True):
    """Of an account in the period that begins at `period_start`. Money is picodollars; reserved: on top of spent."""

    account: str
    period_start: float
    spent: int
    reserved: int
    amount: int
    hard: bool


class Counters(Protocol):
    """One for each ingress process."""

    async def reserve(self, ask: Ask) -> Grant:
        """All accounts have room for it, and now count it; or none does.

        Raises RateLimitedError, QuotaError, and MeteringUnavailableError where a hard budget cannot be checked. Nothing
        is reserved where it raises or is cancelled; what is reserved has to be settled on every path.
        """
        ...

    def settle(self, id: str, tokens: int, cost: int) -> None:
        """The request has ended and used so much; again, or of an unknown id, it does nothing."""
        ...

    async def budgets(self) -> list[BudgetUse]:
        """Of every account with a budget that was counted in its present period."""
        ...

    async def close(self) -> None: ...
