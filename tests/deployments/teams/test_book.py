"""The book against one that remembers everything and adds it up again each time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import QuotaError, RateLimitedError, ServeError
from deployments.teams.book import Book, Settlement, Used
from deployments.teams.counting import Account, Allowance, Ask, Grant
from deployments.teams.periods import period_start
from deployments.teams.records import Budget, Spent
from deployments.teams.tally import Now
from tests.support.asks import NOON, account, ask, at, hard

DAY_S = 24 * 3600.0

Log = list[tuple[Now, int]]


@dataclass
class Naive:
    """What was granted, and what was used, with the times."""

    granted: list[tuple[Now, Ask]] = field(default_factory=list)
    used: list[tuple[Now, Now, Ask, Settlement]] = field(default_factory=list)
    open: dict[str, tuple[Now, Ask]] = field(default_factory=dict)

    def admits(self, asked: Ask, now: Now) -> bool:
        return all(self._has_room(each, asked, now) for each in asked.accounts)

    def _has_room(self, who: Account, asked: Ask, now: Now) -> bool:
        limits, mine = who.limits, [(since, each) for since, each in self.open.values() if _is_of(who, each)]
        requests = [(since, 1) for since, each in self.granted if _is_of(who, each)]
        tokens = [(end, settled.tokens) for _, end, each, settled in self.used if _is_of(who, each)]
        reserved = sum(each.tokens for _, each in mine)
        return (
            (limits.parallel is None or len(mine) < limits.parallel)
            and _fits(requests, limits.requests_per_minute, 1, now)
            and _fits(tokens, limits.tokens_per_minute, reserved + asked.tokens, now)
            and (who.budget is None or not who.budget.hard or self._costs(who, now) + asked.cost <= who.budget.amount)
        )

    def _costs(self, who: Account, now: Now) -> int:
        assert who.budget is not None
        start = period_start(who.budget.period, now.wall)
        reserved = sum(e.cost for since, e in self.open.values() if _is_of(who, e) and since.wall >= start)
        return reserved + sum(s.cost for since, _, e, s in self.used if _is_of(who, e) and since.wall >= start)


def _is_of(who: Account, asked: Ask) -> bool:
    return any(each.id == who.id for each in asked.accounts)


def _fits(log: Log, limit: int | None, amount: int, now: Now) -> bool:
    if limit is None:
        return True
    level, last = Fraction(0), 0
    for time, used in [*log, (now, 0)]:
        level = max(Fraction(0), level - Fraction(limit * (time.ns - last), 60 * 10**9)) + used
        last = time.ns
    return level + amount <= limit


LIMITS = st.one_of(st.none(), st.integers(0, 12))
BUDGETS = st.one_of(st.none(), st.builds(Budget, amount=st.integers(0, 60), period=st.just("day"), hard=st.booleans()))
TEAMS = st.builds(account, st.just("team:a"), LIMITS, LIMITS, LIMITS, BUDGETS)
KEYS = st.tuples(*(st.builds(account, st.just(f"key:{name}"), LIMITS, LIMITS, LIMITS) for name in "ab"))
PASSED = st.sampled_from([0.0, 0.0, 0.1, 1.0, 7.0, 31.0, 61.0, DAY_S])
ASKS = st.tuples(st.just("ask"), PASSED, st.integers(0, 1), st.integers(0, 9), st.integers(0, 20))
ENDS = st.tuples(st.just("settle"), PASSED, st.integers(0, 9), st.integers(0, 12), st.integers(0, 25))
LOSSES = st.tuples(st.just("drop"), PASSED, st.integers(0, 9), st.just(0), st.just(0))
STEPS = st.lists(st.one_of(ASKS, ASKS, ENDS, LOSSES), max_size=40)


@given(team=TEAMS, keys=KEYS, steps=STEPS)
def test_it_admits_what_has_room_and_nothing_else(
    team: Account, keys: tuple[Account, ...], steps: list[tuple[str, float, int, int, int]]
) -> None:
    book, naive, seconds = Book(), Naive(), 0.0
    for kind, passed, which, tokens, cost in steps:
        seconds += passed
        now = at(seconds)
        if kind == "ask":
            asked = ask(team, keys[which], tokens=tokens, cost=cost)
            admitted = naive.admits(asked, now)
            answer = book.reserve(asked, now)
            assert isinstance(answer, Grant) == admitted, answer
            if admitted:
                naive.open[asked.id] = (now, asked)
                naive.granted.append((now, asked))
        elif naive.open:
            id = list(naive.open)[which % len(naive.open)]
            since, asked = naive.open.pop(id)
            if kind == "drop":
                book.drop([id])
            else:
                settlement = Settlement(id, tokens, cost)
                for _ in range(1 + which % 2):  # some are told twice
                    book.settle(settlement, now)
                naive.used.append((since, now, asked, settlement))
        for tally in book.tallies.values():
            mine = [each for _, each in naive.open.values() if _is_of(tally.account, each)]
            assert (tally.open, tally.tokens_reserved) == (len(mine), sum(each.tokens for each in mine))
    _end(book, naive, at(seconds))


def _end(book: Book, naive: Naive, now: Now) -> None:
    for id in naive.open:
        book.settle(Settlement(id, 1, 1), now)
    for tally in book.tallies.values():
        assert (tally.open, tally.tokens_reserved, tally.spending.reserved) == (0, 0, 0)


@given(
    limit=st.integers(1, 12),
    steps=st.lists(st.tuples(st.booleans(), st.floats(0, 30), st.integers(0, 12), st.integers(0, 12)), max_size=40),
)
def test_no_window_uses_more_than_the_limit(limit: int, steps: list[tuple[bool, float, int, int]]) -> None:
    """Used: what was computed until it ended, and what may be computed by those that run."""
    book, seconds, team = Book(), 0.0, account(requests=limit, tokens=limit)
    open: list[Ask] = []
    requests: Log = []
    tokens: Log = []
    for begins, passed, which, amount in steps:
        seconds += passed
        now = at(seconds)
        if begins:
            asked = ask(team, tokens=amount)
            if isinstance(book.reserve(asked, now), Grant):
                open.append(asked)
                requests.append((now, 1))
                _check_windows(tokens, limit, sum(each.tokens for each in open), now)
        elif open:
            asked = open.pop(which % len(open))
            used = min(amount, asked.tokens)
            book.settle(Settlement(asked.id, used, 0), now)
            tokens.append((now, used))
    _check_windows(requests, limit, 0, at(seconds))


def _check_windows(log: Log, limit: int, held: int, now: Now) -> None:
    for first, (start, _) in enumerate(log):
        total = held + sum(amount for _, amount in log[first:])
        assert total <= limit + Fraction(limit * (now.ns - start.ns), 60 * 10**9)


def refused(answer: Grant | ServeError) -> ServeError:
    assert isinstance(answer, ServeError)
    return answer


def test_a_key_without_room_takes_nothing_from_its_team() -> None:
    book, team, key = Book(), account(requests=10, tokens=100, parallel=5, budget=hard(100)), account("key:a", tokens=3)
    before = book.reserve(ask(team, tokens=0, cost=0), at(0))
    refused(book.reserve(ask(team, key, tokens=4), at(0)))
    tally = book.tallies["team:a"]
    assert isinstance(before, Grant)
    assert before.requests is not None
    assert tally.open == 1
    assert tally.tokens_reserved == 0
    assert tally.spending.reserved == 0
    left = tally.requests_left(at(0))
    assert left is not None
    assert left.remaining == before.requests.remaining == 9


def test_the_grant_tells_of_the_account_that_has_least_left() -> None:
    answer = Book().reserve(ask(account(requests=60, tokens=1000), account("key:a", tokens=600), tokens=100), at(0))
    assert answer == Grant(
        requests=Allowance(limit=60, remaining=59, reset_s=1.0),
        tokens=Allowance(limit=600, remaining=500, reset_s=10.0),
    )


def test_what_was_reserved_too_much_is_free_at_once_and_never_more_than_that() -> None:
    book, team = Book(), account(tokens=100)
    first = ask(team, tokens=100)
    book.reserve(first, at(0))
    error = refused(book.reserve(ask(team, tokens=1), at(120)))  # reserved tokens do not drain
    assert (error.type, error.code) == ("tokens", "rate_limit_exceeded")
    book.settle(Settlement(first.id, 10, 0), at(120))
    assert _tokens_left(book, at(120)) == 90
    assert _tokens_left(book, at(300)) == 100


def test_who_used_more_than_reserved_is_in_debt() -> None:
    book, team = Book(), account(tokens=60)
    first = ask(team, tokens=10)
    book.reserve(first, at(0))
    book.settle(Settlement(first.id, 90, 0), at(0))
    assert _tokens_left(book, at(0)) == 0
    assert refused(book.reserve(ask(team, tokens=10), at(0))).retry_after == pytest.approx(40)
    assert isinstance(book.reserve(ask(team, tokens=10), at(40)), Grant)


def _tokens_left(book: Book, now: Now) -> int:
    left = book.tallies["team:a"].tokens_left(now)
    assert left is not None
    return left.remaining


def test_a_request_is_granted_once_however_often_it_asks() -> None:
    book, first = Book(), ask(account(parallel=1), tokens=5)
    assert isinstance(book.reserve(first, at(0)), Grant)
    assert isinstance(book.reserve(first, at(0)), Grant)
    assert book.tallies["team:a"].open == 1


def test_what_never_fits_is_said_to_be_no_use_to_repeat() -> None:
    error = refused(Book().reserve(ask(account(tokens=100, requests=5), tokens=101), at(0)))
    headers = error.response_headers()
    assert type(error) is RateLimitedError
    assert error.status == 429
    assert headers["x-should-retry"] == "false"
    assert "retry-after" not in headers
    assert headers["x-ratelimit-limit-tokens"] == "100"


def test_the_longest_wait_is_told() -> None:
    book, team, key = Book(), account(requests=60), account("key:a", tokens=60)
    book.remember(Used(team, 60, 0), at(0))
    book.remember(Used(key, 0, 60), at(0))
    error = refused(book.reserve(ask(team, key, tokens=30), at(0)))
    assert error.response_headers() == {
        "retry-after": "30",
        "retry-after-ms": "30000",
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
        "x-ratelimit-limit-tokens": "60",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1m0s",
    }


def test_a_budget_that_is_used_up_is_told_before_a_limit() -> None:
    team = account(requests=0, budget=hard(5))
    error = refused(Book().reserve(ask(team, cost=6), at(0)))
    assert type(error) is QuotaError
    assert (error.status, error.type, error.code) == (429, "insufficient_quota", "insufficient_quota")
    assert error.response_headers()["x-should-retry"] == "false"


def test_a_soft_budget_refuses_nothing_and_tells_all() -> None:
    book, team = Book(), account(budget=Budget(amount=10, period="day"))
    for _ in range(3):
        assert isinstance(book.reserve(ask(team, cost=9), at(0)), Grant)
    (use,) = book.budgets(at(0))
    assert (use.account, use.spent, use.reserved, use.amount, use.hard) == ("team:a", 0, 27, 10, False)
    assert use.period_start == NOON - DAY_S / 2


def spent_today(amount: int) -> Spent:
    return Spent(period_start=NOON - DAY_S / 2, amount=amount)


def test_the_larger_of_what_is_counted_and_what_is_booked_is_believed() -> None:
    book = Book()

    def spent(booked: int | None, cost: int) -> Iterator[int]:
        asked = ask(account(budget=hard(1000), spent=None if booked is None else spent_today(booked)), cost=cost)
        assert isinstance(book.reserve(asked, at(0)), Grant)
        book.settle(Settlement(asked.id, 0, cost), at(0))
        yield from (use.spent for use in book.budgets(at(0)))

    assert [*spent(100, 10), *spent(100, 10), *spent(120, 0), *spent(200, 5), *spent(None, 0)] == [
        *(110, 120, 120),
        *(200, 200),
    ]


def test_the_day_after_begins_with_nothing_spent_whatever_was_reserved_the_day_before() -> None:
    book, team = Book(), account(budget=hard(10))
    over_midnight = ask(team, cost=10)
    book.reserve(over_midnight, at(0))
    assert isinstance(book.reserve(ask(team, cost=1), at(0)), QuotaError)
    today = ask(team, cost=4)
    assert isinstance(book.reserve(today, at(DAY_S)), Grant)
    book.settle(Settlement(over_midnight.id, 5, 9), at(DAY_S + 1))
    (use,) = book.budgets(at(DAY_S + 1))
    assert (use.spent, use.reserved) == (0, 4)
    book.settle(Settlement(today.id, 5, 3), at(DAY_S + 2))
    assert [(use.spent, use.reserved) for use in book.budgets(at(DAY_S + 2))] == [(3, 0)]
    assert book.budgets(at(2 * DAY_S)) == []


def test_what_was_spent_before_it_was_opened_counts_in_its_period() -> None:
    book, team, yesterday = Book(), account(budget=hard(10)), int(NOON - DAY_S / 2 - DAY_S)
    book.remember(Used(team, 0, 0, [(yesterday, 9), (yesterday + int(DAY_S), 4)]), at(0))
    assert isinstance(book.reserve(ask(team, cost=7), at(0)), QuotaError)
    assert isinstance(book.reserve(ask(team, cost=6), at(0)), Grant)


def test_what_the_database_says_of_yesterday_is_not_todays() -> None:
    book, stale = Book(), account(budget=hard(10), spent=spent_today(10))
    assert isinstance(book.reserve(ask(stale, cost=1), at(0)), QuotaError)
    assert isinstance(book.reserve(ask(stale, cost=1), at(DAY_S)), Grant)


def test_accounts_of_which_there_is_nothing_to_know_are_forgotten() -> None:
    book = Book()
    for number in range(50):
        asked = ask(account(f"key:{number}", requests=5, tokens=50))
        book.reserve(asked, at(0))
        book.settle(Settlement(asked.id, 1, 1), at(0))
    runs = ask(account("key:runs", requests=5))
    book.reserve(runs, at(0))
    book.reserve(ask(account("key:new")), at(130))
    assert sorted(book.tallies) == ["key:new", "key:runs"]
