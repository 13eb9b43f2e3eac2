"""What is counted of one account, told without a book."""

from __future__ import annotations

import time

import msgspec

from deployments.teams.counting import Account, Allowance
from deployments.teams.records import Budget, Spent
from deployments.teams.tally import REMEMBERED_NS, Now, Tally
from tests.support.asks import NOON, account, at, hard

MIDNIGHT = NOON - 12 * 3600


def test_the_time_is_of_a_clock_that_never_goes_back_and_of_the_calendar() -> None:
    before = time.monotonic_ns(), time.time()
    now = Now.read()
    after = time.monotonic_ns(), time.time()
    assert before[0] <= now.ns <= after[0]
    assert before[1] <= now.wall <= after[1]


def test_what_is_left_is_of_what_is_reserved_and_used() -> None:
    tally = Tally(account(requests=4, tokens=60))
    assert (tally.requests_left(at(0)), tally.tokens_left(at(0))) == (
        Allowance(limit=4, remaining=4, reset_s=0.0),
        Allowance(limit=60, remaining=60, reset_s=0.0),
    )
    tally.hold(20, 5, at(0))
    assert (tally.open, tally.tokens_reserved) == (1, 20)
    assert tally.requests_left(at(0)) == Allowance(limit=4, remaining=3, reset_s=15.0)
    left = tally.tokens_left(at(0))
    assert left is not None
    assert left.remaining == 40, "what is reserved"
    tally.release(20, 5, at(0).wall)
    tally.use(0, 30, 3, at(0).wall, at(0))
    assert (tally.open, tally.tokens_reserved) == (0, 0)
    assert tally.tokens_left(at(10)) == Allowance(limit=60, remaining=40, reset_s=20.0)
    tally.use(0, 90, 0, at(0).wall, at(10))
    assert tally.tokens_left(at(10)) == Allowance(limit=60, remaining=0, reset_s=110.0), "never less than nothing"


def test_without_a_limit_nothing_is_counted_of_it() -> None:
    tally = Tally(account())
    tally.use(5, 500, 3, at(0).wall, at(0))
    assert (tally.requests_left(at(0)), tally.tokens_left(at(0)), tally.budget_use(at(0))) == (None, None, None)
    tally.follow(account(requests=5, tokens=500), at(0))
    assert tally.requests_left(at(0)) == Allowance(limit=5, remaining=5, reset_s=0.0)
    assert tally.tokens_left(at(0)) == Allowance(limit=500, remaining=500, reset_s=0.0)


def told(tally: Tally, seconds: float) -> tuple[str, float, int, int, int, bool] | None:
    use = tally.budget_use(at(seconds))
    return None if use is None else msgspec.structs.astuple(use)  # type: ignore[return-value]


def with_budget(spent: int | None = None, budget: Budget | None = None) -> Account:
    known = None if spent is None else Spent(period_start=MIDNIGHT, amount=spent)
    return account(budget=budget or hard(100), spent=known)


def test_a_budget_is_told_in_the_period_in_which_it_was_seen() -> None:
    tally = Tally(with_budget())
    assert told(tally, 0) is None, "it was not seen yet"
    tally.follow(with_budget(40), at(0))
    tally.hold(1, 5, at(0))
    tally.use(0, 0, 3, at(0).wall, at(0))
    assert told(tally, 1) == ("team:a", MIDNIGHT, 43, 5, 100, True)
    assert told(tally, 12 * 3600 - 1) is not None
    assert told(tally, 12 * 3600) is None, "that is another day"
    tally.follow(account(), at(1))
    assert told(tally, 1) is None, "it has none any more"


def test_it_is_idle_once_it_says_nothing_that_a_new_one_would_not() -> None:
    tally = Tally(account(requests=60, tokens=60))
    assert tally.is_idle(at(0))
    tally.hold(1, 1, at(0))
    assert not tally.is_idle(at(3600)), "a request runs"
    tally.release(1, 1, at(0).wall)
    tally.use(0, 2, 0, at(0).wall, at(0))
    assert [tally.is_idle(at(seconds)) for seconds in (0.0, 1.0, 1.9, 2.0)] == [False, False, False, True]
    seen = Tally(with_budget())
    seen.follow(with_budget(), at(0))
    later = Now(REMEMBERED_NS, at(0).wall)
    assert not seen.is_idle(later), "its period goes on"
    seen.follow(account(), at(0))  # it has no budget any more
    assert [seen.is_idle(Now(REMEMBERED_NS + more, at(0).wall)) for more in (-1, 0)] == [False, True]
