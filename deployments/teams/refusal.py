"""Why an account has no room for a request."""

from __future__ import annotations

import math
from collections.abc import Iterator

from deployments.errors import QuotaError, RateLimitedError, ServeError
from deployments.teams.counting import Ask
from deployments.teams.money import shown
from deployments.teams.records import Budget
from deployments.teams.tally import Now, Tally

_PARALLEL_WAIT_S = 1.0
"""Nobody knows when one of those that run will end."""


def weightiest(refusals: list[ServeError]) -> ServeError:
    """The one that is to be told: that which waiting does not help against, or which is to be waited for longest."""
    return max(refusals, key=lambda error: math.inf if error.retry_after is None else error.retry_after)


def refusals(tally: Tally, ask: Ask, now: Now) -> Iterator[ServeError]:
    """None where it has room."""
    account = tally.account
    limits, who = account.limits, f"The {account.id.partition(':')[0]}"
    if account.budget is not None and not tally.spending.has_room(ask.cost, account.budget):
        yield _over(account.budget, who, ask.cost)
    if limits.parallel is not None and tally.open >= limits.parallel:
        what = f"{who} may have {limits.parallel} requests at once"
        yield _limited(what, "requests", 1, limits.parallel, _PARALLEL_WAIT_S)
    if limits.requests_per_minute is not None:
        what = f"{who} may send {limits.requests_per_minute} requests a minute"
        if wait := tally.requests.wait_ns(1, limits.requests_per_minute, 0, now.ns):
            yield _limited(what, "requests", 1, limits.requests_per_minute, wait / 10**9)
    if limits.tokens_per_minute is not None:
        what = f"{who} may use {limits.tokens_per_minute} tokens a minute; this request asks for up to {ask.tokens}"
        if wait := tally.tokens.wait_ns(ask.tokens, limits.tokens_per_minute, tally.tokens_reserved, now.ns):
            yield _limited(what, "tokens", ask.tokens, limits.tokens_per_minute, wait / 10**9)


def _over(budget: Budget, who: str, cost: int) -> QuotaError:
    return QuotaError(
        f"{who} has a budget of {shown(budget.amount)} USD a {budget.period}; what is left of it has no room for what "
        f"this request may cost: {shown(cost)} USD."
    )


def _limited(what: str, of: str, asked: int, limit: int, wait_s: float) -> RateLimitedError:
    if asked > limit:
        return RateLimitedError(f"{what}. It never fits.", type=of, headers={"x-should-retry": "false"})
    return RateLimitedError(f"{what}. Try again in {wait_s:.3g} s.", type=of, retry_after=wait_s)
