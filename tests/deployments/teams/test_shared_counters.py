"""Ingress processes that share a book which is away at times, dies, and does not answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.errors import MeteringUnavailableError, QuotaError, RateLimitedError, ServeError
from deployments.teams import shared_counters
from deployments.teams.book import Settlement
from deployments.teams.counting import Counters
from deployments.teams.local_counters import LocalCounters
from deployments.teams.periods import day_start
from deployments.teams.records import Budget
from deployments.teams.shared_book import GRACE_S, RENEW_S, UNDERWAY_S, News, State
from deployments.teams.shared_counters import PATIENCE_S, RETRY_S, SharedCounters
from deployments.teams.tally import Now
from deployments.teams.unbooked import Costs, Unbooked
from tests.support.accounts import entry
from tests.support.asks import NOON, Clock, account, ask, hard, loop_clock
from tests.support.far_book import FarBook
from tests.support.log_lines import captured
from tests.support.virtual_time import VirtualTimeLoop
from tests.support.waiting import eventually

pytestmark = pytest.mark.virtual_time


class FailingBook(FarBook):
    """fails: as a book that is wrong, not away. left: who has."""

    fails = False

    def __init__(self, clock: Callable[[], Now]) -> None:
        super().__init__(clock)
        self.left: list[str] = []

    async def tell(self, name: str, news: News) -> bool:
        if self.fails:
            raise RuntimeError("what is this")
        return await super().tell(name, news)

    async def join(self, name: str, state: State) -> None:
        if self.fails:
            raise RuntimeError("what is this")
        await super().join(name, state)

    async def leave(self, name: str, settled: list[Settlement]) -> None:
        self.left.append(name)
        await super().leave(name, settled)


@asynccontextmanager
async def ingresses(
    book: FarBook, number: int = 2, unbooked: Callable[[], Costs] = dict
) -> AsyncIterator[list[SharedCounters]]:
    counters = [SharedCounters(book, number, loop_clock, unbooked) for _ in range(number)]
    try:
        yield counters
    finally:
        await asyncio.gather(*(each.close() for each in counters))


async def passes(counters: Counters, requests: int, cost: int, budget: int) -> int:
    """How many of so many at once get through, none of which ends."""
    team = account(budget=hard(budget))
    answers = await asyncio.gather(
        *(counters.reserve(ask(team, cost=cost)) for _ in range(requests)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert all(isinstance(answer, QuotaError) for answer in refused), refused
    return requests - len(refused)


async def test_of_200_at_once_as_many_pass_as_the_budget_has_worst_cases() -> None:
    assert await passes(LocalCounters(Clock()), requests=200, cost=7, budget=79) == 11
    book = FarBook(loop_clock)
    async with ingresses(book) as (one, other):
        passed = await asyncio.gather(*(passes(each, 100, cost=7, budget=70) for each in (one, other)))
    assert sum(passed) == 10


async def test_one_after_the_other_never_meets_itself() -> None:
    book, team = FarBook(loop_clock), account(parallel=1)
    async with ingresses(book, 1) as (counters,):
        for _ in range(100):
            asked = ask(team)
            await counters.reserve(asked)
            counters.settle(asked.id, 1, 1)
        assert book.calls <= 100 + 10  # what is settled goes with the next request, mostly


async def test_settling_waits_for_nothing_and_is_told_without_another_request() -> None:
    book, asked = FarBook(loop_clock), ask(account(tokens=100), tokens=80)
    async with ingresses(book, 1) as (counters,):
        await counters.reserve(asked)
        before = asyncio.get_running_loop().time()
        for _ in range(2):
            counters.settle(asked.id, 30, 1)
        counters.settle("nobody's", 10**6, 1)
        assert asyncio.get_running_loop().time() == before
        tally = book.shared.book.tallies["team:a"]
        await eventually(lambda: tally.open == 0, timeout_s=0.1)
        left = tally.tokens_left(loop_clock())
        assert left is not None
        assert left.remaining == 70


async def test_while_it_is_away_each_has_its_share_and_hard_budgets_are_closed() -> None:
    book, team, rich = FarBook(loop_clock), account(requests=6, parallel=9), account("team:b", budget=hard(10**9))
    async with ingresses(book, 3) as counters:
        book.is_away = True
        for each in counters:
            for _ in range(2):
                await each.reserve(ask(team))
            with pytest.raises(RateLimitedError) as limited:
                await each.reserve(ask(team))
            assert limited.value.retry_after == pytest.approx(30, abs=1)
            with pytest.raises(MeteringUnavailableError) as closed:
                await each.reserve(ask(rich))
            assert (closed.value.status, closed.value.code) == (503, "metering_unavailable")
            assert closed.value.retry_after
        with pytest.raises(MeteringUnavailableError):
            await counters[0].budgets()


async def test_a_large_request_has_room_while_it_is_away() -> None:
    book, team = FarBook(loop_clock), account(tokens=900)
    async with ingresses(book, 3) as (counters, *_):
        book.is_away = True
        await counters.reserve(ask(team, tokens=800))
        with pytest.raises(RateLimitedError):
            await counters.reserve(ask(team, tokens=800))


async def test_what_runs_counts_while_it_is_away_and_when_it_is_back() -> None:
    book, team = FarBook(loop_clock), account(parallel=4)
    async with ingresses(book) as (one, other):
        for each in (one, other):
            for _ in range(2):
                await each.reserve(ask(team))
        book.is_away = True
        for each in (one, other):
            with pytest.raises(RateLimitedError):
                await each.reserve(ask(team))
        book.is_away = False
        book.die()
        await eventually(lambda: not one.is_away and not other.is_away, timeout_s=RETRY_S + PATIENCE_S)
        assert book.shared.book.tallies["team:a"].open == 4
        with pytest.raises(RateLimitedError):
            await one.reserve(ask(team))


async def test_a_book_that_died_unnoticed_is_told_within_seconds() -> None:
    book, team, costs = FarBook(loop_clock), account(tokens=100, budget=hard(100)), Costs()
    async with ingresses(book, 1, lambda: costs) as (counters,):
        done, open_still = ask(team, tokens=50, cost=50), ask(team, tokens=20, cost=20)
        for asked in (done, open_still):
            await counters.reserve(asked)
        counters.settle(done.id, 30, 40)
        costs["team:a"] = {day_start(NOON): 40}
        book.die()
        await eventually(lambda: "team:a" in book.shared.book.tallies, timeout_s=RENEW_S + 1)
        tally = book.shared.book.tallies["team:a"]
        left = tally.tokens_left(loop_clock())
        assert left is not None
        assert (tally.open, tally.spending.spent, tally.spending.reserved) == (1, 40, 20)
        assert left.remaining == pytest.approx(50, abs=5)
        with pytest.raises(MeteringUnavailableError):
            await counters.reserve(ask(team, cost=1))
        await asyncio.sleep(GRACE_S)
        await counters.reserve(ask(team, cost=1))


async def test_a_budget_is_used_up_for_a_book_that_begins_anew_while_the_database_is_away() -> None:
    book, unbooked, team = FarBook(loop_clock), Unbooked(), account(budget=hard(100))
    async with ingresses(book, 1, unbooked.costs) as (counters,):
        for number in range(10):
            asked = ask(team, cost=10)
            await counters.reserve(asked)
            unbooked.ended(entry(number, team_id="a", started_at=NOON + number, cost=10))
            counters.settle(asked.id, 1, 10)
        await asyncio.sleep(1800)
        book.die()
        await eventually(lambda: "team:a" in book.shared.book.tallies, timeout_s=RENEW_S + 1)
        await asyncio.sleep(GRACE_S)
        with pytest.raises(QuotaError):
            await counters.reserve(ask(team, cost=1))


async def test_what_was_used_while_a_living_book_was_away_counts_when_it_is_back() -> None:
    book, team = FarBook(loop_clock), account(tokens=100)
    async with ingresses(book, 2) as (one, other):
        for each in (one, other):
            await each.reserve(ask(team, tokens=0))
        book.is_away = True
        await eventually(lambda: one.is_away and other.is_away, timeout_s=RENEW_S + 1)
        for each in (one, other):
            asked = ask(team, tokens=40)
            await each.reserve(asked)
            each.settle(asked.id, 40, 0)
        book.is_away = False
        await eventually(lambda: not one.is_away and not other.is_away, timeout_s=RETRY_S + 1)
        with pytest.raises(RateLimitedError):
            await one.reserve(ask(team, tokens=30))


async def test_an_error_that_nobody_expected_does_not_end_the_news() -> None:
    book, asked = FailingBook(loop_clock), ask(account(parallel=1))
    async with ingresses(book, 1) as (counters,):
        await counters.reserve(asked)
        book.fails = True
        with captured() as log:
            await eventually(lambda: counters.is_away, timeout_s=RENEW_S + 1)
            await asyncio.sleep(10 * RETRY_S)
        (line,) = log.all("limits.book_failed")
        assert "what is this" in line["exception"]
        book.fails = False
        counters.settle(asked.id, 1, 1)
        await eventually(lambda: not counters.is_away, timeout_s=RETRY_S + 1)
        assert book.shared.book.tallies["team:a"].open == 0


async def test_who_only_asked_for_budgets_leaves_too() -> None:
    book = FailingBook(loop_clock)
    async with ingresses(book, 2) as (one, _):
        await one.budgets()
    assert book.left == [one._name]


async def test_a_book_that_does_not_answer_is_waited_for_once() -> None:
    book, team = FarBook(loop_clock), account(requests=100)
    loop = asyncio.get_running_loop()
    async with ingresses(book, 1) as (counters,):
        await counters.reserve(ask(team))
        book.loses_answers = True
        started = loop.time()
        await counters.reserve(ask(team))
        assert loop.time() - started == pytest.approx(PATIENCE_S, abs=0.01)
        await counters.reserve(ask(team))
        assert loop.time() - started == pytest.approx(PATIENCE_S, abs=0.01)


async def test_a_request_that_is_cancelled_while_it_asks_reserves_nothing() -> None:
    team = account(parallel=1)
    for cancelled_after in (0.05, 0.15, 0.25, 0.35, 0.45, 0.55):
        book = FarBook(loop_clock, delay_s=0.1)
        async with ingresses(book, 1) as (counters,):
            asking = asyncio.create_task(counters.reserve(ask(team)))
            await asyncio.sleep(cancelled_after)
            asking.cancel()
            await asyncio.wait([asking])
            assert asking.cancelled()
            await asyncio.sleep(1)
            assert all(tally.open == 0 for tally in book.shared.book.tallies.values())
            await counters.reserve(ask(team))


async def test_a_refusal_in_place_of_an_answer_that_got_lost_takes_back_what_was_reserved() -> None:
    book, team = FarBook(loop_clock), account(parallel=2)
    async with ingresses(book) as (counters, _):
        await counters.reserve(ask(team))
        book.loses_answers = True
        with pytest.raises(RateLimitedError):
            await counters.reserve(ask(team))
        book.loses_answers = False
        tally = book.shared.book.tallies["team:a"]
        assert tally.open == 2
        await eventually(lambda: tally.open == 1, timeout_s=2 * PATIENCE_S)


async def test_what_is_settled_while_it_is_away_is_told_when_it_is_back() -> None:
    book, team = FarBook(loop_clock), account(budget=Budget(amount=10))
    async with ingresses(book, 1) as (counters,):
        asked = ask(team, cost=9)
        await counters.reserve(asked)
        book.is_away = True
        counters.settle(asked.id, 1, 7)
        await eventually(lambda: counters.is_away, timeout_s=1)
        book.is_away = False
        await eventually(lambda: not counters.is_away, timeout_s=RETRY_S + 1)
        (use,) = await counters.budgets()
        assert (use.spent, use.reserved) == (7, 0)


async def test_what_is_not_told_yet_is_no_more_than_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_counters, "MOST_UNSENT", 10)
    book = FarBook(loop_clock)
    async with ingresses(book, 1) as (counters,):
        book.is_away = True
        for _ in range(100):
            asked = ask(account())
            await counters.reserve(asked)
            counters.settle(asked.id, 1, 1)
        book.is_away = False
        await eventually(lambda: not counters.is_away, timeout_s=RETRY_S + 1)
        assert 0 < book.settled <= 20


FAULTS = ("away", "lost", "die", "back", "back", "cancel")
STEPS = st.lists(
    st.tuples(st.sampled_from(("ask", "ask", "ask", "settle", *FAULTS)), st.integers(0, 1), st.floats(0, 3)),
    max_size=40,
)


@settings(max_examples=60)
@given(steps=STEPS, seed=st.integers(0, 2**16))
def test_nothing_is_reserved_in_the_end_whatever_happened(steps: list[tuple[str, int, float]], seed: int) -> None:
    in_virtual_time(_whatever_happens(steps, random.Random(seed)))


async def _whatever_happens(steps: list[tuple[str, int, float]], draw: random.Random) -> None:
    book = FarBook(loop_clock, delay_s=0.01)
    team = account(parallel=5, requests=200, tokens=1000, budget=hard(40))
    open: list[tuple[SharedCounters, str]] = []
    asking: list[asyncio.Task[None]] = []

    async def request(counters: SharedCounters) -> None:
        asked = ask(team, account("key:a", parallel=3), tokens=10, cost=3)
        try:
            await counters.reserve(asked)
        except ServeError:
            return
        open.append((counters, asked.id))

    async with ingresses(book) as counters:
        for what, which, passed in steps:
            if what == "ask":
                asking.append(asyncio.create_task(request(counters[which])))
            elif what == "cancel" and asking:
                asking.pop(draw.randrange(len(asking))).cancel()
            elif what == "settle" and open:
                owner, id = open.pop(draw.randrange(len(open)))
                owner.settle(id, draw.randrange(12), draw.randrange(4))
            elif what == "die":
                book.die()
            else:
                book.is_away, book.loses_answers = what == "away", what == "lost"
            await asyncio.sleep(passed)
        book.is_away = book.loses_answers = False
        await asyncio.gather(*asking, return_exceptions=True)
        for owner, id in open:
            owner.settle(id, 1, 1)
        await asyncio.sleep(2 * PATIENCE_S + UNDERWAY_S + 2 * RENEW_S)
        assert not any(each.is_away for each in counters)
        for tally in book.shared.book.tallies.values():
            assert (tally.open, tally.tokens_reserved, tally.spending.reserved) == (0, 0, 0)
        for each in counters:
            await each.reserve(ask(account("key:last", parallel=2)))
        assert book.shared.book.tallies["key:last"].open == 2


def in_virtual_time(coroutine: Coroutine[object, object, None]) -> None:
    loop = VirtualTimeLoop()
    try:
        loop.run_until_complete(coroutine)
        assert asyncio.all_tasks(loop) == set(), "left running"
    finally:
        loop.close()
