"""Hard budgets while the clock is set, the budget's period is changed, and not everybody has heard of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import QuotaError
from deployments.teams.book import Book, Settlement
from deployments.teams.counting import Account, Ask, Grant
from deployments.teams.periods import day_start, period_start
from deployments.teams.records import Period
from deployments.teams.spending import MOST_PERIODS, Spending
from deployments.teams.tally import REMEMBERED_NS, Now
from tests.support.asks import NOON, account, ask, hard

DAY_S = 24 * 3600.0
MIDNIGHT = NOON + DAY_S / 2
DAYS = [-1.5, -1.0, 0.0, 1.0]
BUDGETS: dict[Period, int] = {"day": 50, "month": 90}


@dataclass
class Request:
    """cost: what it may, and when it has ended what it did."""

    asked: Ask
    at: float
    cost: int
    ended: bool = False


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "settle", "drop", "clock"]),
        st.sampled_from(list(BUDGETS)),
        st.sampled_from(DAYS),
        st.integers(0, 30),
        st.sampled_from([1, 61, 3 * 61]),
    ),
    max_size=60,
)


@given(steps=STEPS)
def test_no_more_is_granted_than_a_period_has_whatever_the_clock_and_the_budget_do(
    steps: list[tuple[str, Period, float, int, int]],
) -> None:
    """The database is away, and each period was asked about before: all is counted here."""
    book, requests, now = Book(), list[Request](), Now(0, MIDNIGHT)

    def team(period: Period) -> Account:
        return account(budget=hard(BUDGETS[period], period))

    for period, days in itertools.product(BUDGETS, DAYS):
        book.reserve(ask(team(period), cost=0), Now(0, MIDNIGHT + days * DAY_S))
    for what, period, days, number, seconds in steps:
        now = Now(now.ns + seconds * 10**9, now.wall + seconds)
        running = [one for one in requests if not one.ended]
        if what == "clock":
            now = Now(now.ns, MIDNIGHT + days * DAY_S)
        elif what == "ask":
            asked = ask(team(period), cost=number)
            start = period_start(period, now.wall)
            taken = sum(one.cost for one in requests if period_start(period, one.at) == start)
            answer = book.reserve(asked, now)
            assert isinstance(answer, Grant | QuotaError)
            if isinstance(answer, Grant):
                assert taken + number <= BUDGETS[period]
                requests.append(Request(asked, now.wall, number))
        elif running:
            one = running[number % len(running)]
            one.ended, one.cost = True, min(one.cost, number) if what == "settle" else 0
            if what == "settle":
                book.settle(Settlement(one.asked.id, 1, one.cost), now)
            else:
                book.drop([one.asked.id])
        held = sum(one.cost for one in requests if not one.ended)
        assert 0 <= book.tallies["team:a"].spending.reserved <= held
    book.drop([one.asked.id for one in requests])


def test_what_runs_counts_in_the_period_that_the_budget_is_changed_to() -> None:
    book = Book()
    day, month = account(budget=hard(1000, "day")), account(budget=hard(1000, "month"))
    runs = [ask(month, cost=100) for _ in range(9)]
    for one in runs:
        assert isinstance(book.reserve(one, Now(0, NOON)), Grant)
    assert isinstance(book.reserve(ask(day, cost=100), Now(1, NOON)), Grant)
    assert isinstance(book.reserve(ask(month, cost=1), Now(2, NOON)), QuotaError)
    for one in runs:
        book.settle(Settlement(one.id, 1, 100), Now(3, NOON))
    spending = book.tallies["team:a"].spending
    assert (spending.spent, spending.reserved) == (900, 100)
    assert isinstance(book.reserve(ask(day, cost=1), Now(4, NOON)), QuotaError)


def test_it_remembers_a_few_periods() -> None:
    spending = Spending()
    for number in range(3 * MOST_PERIODS):
        spending.follow(number * DAY_S, None)
        spending.reserve(5, number * DAY_S)
        spending.add(7, number * DAY_S)
        spending.release(5, number * DAY_S)
    assert (len(spending._counts), len(spending._reserved)) == (MOST_PERIODS, 0)
    spending.follow((2 * MOST_PERIODS + 1) * DAY_S, None)
    assert spending.spent == 7 * (MOST_PERIODS - 1)


def test_a_budget_that_nobody_asks_about_is_remembered_for_an_hour_whatever_the_clock_says() -> None:
    book, team = Book(), account(budget=hard(10))
    spent = ask(team, cost=10)
    book.reserve(spent, Now(0, NOON))
    book.settle(Settlement(spent.id, 1, 10), Now(0, NOON))
    book.reserve(ask(account("key:other")), Now(REMEMBERED_NS - 1, NOON + 40 * DAY_S))
    assert isinstance(book.reserve(ask(team, cost=1), Now(REMEMBERED_NS - 1, NOON)), QuotaError)
    book.reserve(ask(account("key:other")), Now(2 * REMEMBERED_NS, NOON + 40 * DAY_S))
    assert "team:a" not in book.tallies


@pytest.mark.parametrize("period", ["day", "week", "month"])
@given(at=st.floats(0, 4e9))
def test_every_period_begins_with_a_day(period: Period, at: float) -> None:
    start = period_start(period, at)
    assert day_start(start) == start <= day_start(at) <= at < day_start(at) + DAY_S
