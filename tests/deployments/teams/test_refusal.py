"""Why an account has no room, in words that tell its people what to do, and for how long."""

from __future__ import annotations

import pytest

from deployments.errors import QuotaError, RateLimitedError, ServeError
from deployments.teams.book import Book, Used
from deployments.teams.counting import Account
from deployments.teams.refusal import refusals, weightiest
from deployments.teams.tally import Tally
from tests.support.asks import account, ask, at, hard

TEAM = account(requests=4, tokens=60, parallel=2, budget=hard(3 * 10**12, "week"))


def found(who: Account, asked: int, cost: int = 1, *, running: int = 0, used: Used | None = None) -> list[ServeError]:
    book, tally = Book(), Tally(who)
    book.tallies[who.id] = tally
    tally.follow(who, at(0))
    for _ in range(running):
        book.hold(ask(who, tokens=0, cost=0), at(0))
    if used is not None:
        book.remember(used, at(0))
    return list(refusals(tally, ask(who, tokens=asked, cost=cost), at(0)))


def test_where_there_is_room_nobody_is_refused() -> None:
    assert found(TEAM, 60, 3 * 10**12) == []
    assert found(TEAM, 30, running=1, used=Used(TEAM, 2, 30)) == []
    assert found(account(), 10**9, 10**15, running=100) == []


@pytest.mark.parametrize(
    ("who", "asked", "running", "used", "of", "retry_after", "message"),
    [
        (TEAM, 1, 2, (0, 0), "requests", 1.0, "The team may have 2 requests at once"),
        (TEAM, 1, 0, (4, 0), "requests", 15.0, "The team may send 4 requests a minute"),
        (TEAM, 8, 0, (0, 60), "tokens", 8.0, "The team may use 60 tokens a minute; this request asks for up to 8"),
        (TEAM, 61, 0, (0, 0), "tokens", None, "The team may use 60 tokens a minute; this request asks for up to 61"),
        (TEAM, 60, 0, (0, 30), "tokens", 30.0, "The team may use 60 tokens a minute; this request asks for up to 60"),
        (account("key:k", requests=1), 1, 0, (1, 0), "requests", 60.0, "The key may send 1 requests a minute"),
        (account("key:k", parallel=1), 1, 1, (0, 0), "requests", 1.0, "The key may have 1 requests at once"),
        (account("key:k", requests=0), 1, 0, (0, 0), "requests", None, "The key may send 0 requests a minute"),
        (account("key:k", parallel=0), 1, 0, (0, 0), "requests", None, "The key may have 0 requests at once"),
    ],
)
def test_a_limit_says_what_it_is_and_when_there_is_room(
    who: Account, asked: int, running: int, used: tuple[int, int], of: str, retry_after: float | None, message: str
) -> None:
    (refusal,) = found(who, asked, running=running, used=Used(who, *used))
    assert isinstance(refusal, RateLimitedError)
    end = "It never fits." if retry_after is None else f"Try again in {retry_after:g} s."
    assert (refusal.message, refusal.type, refusal.retry_after) == (f"{message}. {end}", of, retry_after)
    assert ("x-should-retry" in refusal.headers) == (retry_after is None)


def test_a_budget_says_what_it_is_and_what_the_request_may_cost() -> None:
    (refusal,) = found(TEAM, 1, 3 * 10**12 + 10**10)
    assert isinstance(refusal, QuotaError)
    assert refusal.message == (
        "The team has a budget of 3.00 USD a week; what is left of it has no room for what this request may cost: "
        "3.01 USD."
    )


def test_that_is_told_against_which_waiting_helps_least() -> None:
    every = found(TEAM, 8, 4 * 10**12, running=2, used=Used(TEAM, 2, 60))
    assert [type(one) for one in every] == [QuotaError, *[RateLimitedError] * 3]
    assert [one.retry_after for one in every] == [None, 1.0, 15.0, 8.0]
    assert weightiest(every) is every[0]
    assert weightiest(every[1:]) is weightiest(every[:0:-1]) is every[2]
