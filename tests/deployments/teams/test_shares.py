"""What an ingress process tells the shared book and what it lets in by itself, call by call."""

from __future__ import annotations

import asyncio

import pytest

from deployments.errors import MeteringUnavailableError
from deployments.teams import shared_counters
from deployments.teams.book import Settlement, Used
from deployments.teams.counting import Account, Ask, BudgetUse, Grant
from deployments.teams.records import Limits
from deployments.teams.shared_book import RENEW_S, News, State
from deployments.teams.shared_counters import RETRY_AFTER_S, RETRY_S, BookAwayError, SharedCounters, _share
from tests.support.asks import account, ask, at, hard, loop_clock
from tests.support.waiting import eventually

pytestmark = pytest.mark.virtual_time


@pytest.mark.parametrize(
    ("limits", "tokens", "processes", "share"),
    [
        (Limits(), 5, 3, Limits()),
        (Limits(requests_per_minute=6, tokens_per_minute=90, parallel=9), 5, 3, Limits(
            requests_per_minute=2, tokens_per_minute=30, parallel=3)),
        (Limits(requests_per_minute=2, tokens_per_minute=90, parallel=2), 31, 3, Limits(
            requests_per_minute=1, tokens_per_minute=31, parallel=1)),
        (Limits(requests_per_minute=0, tokens_per_minute=90, parallel=0), 91, 3, Limits(
            requests_per_minute=0, tokens_per_minute=90, parallel=0)),
        (Limits(requests_per_minute=7, tokens_per_minute=7, parallel=7), 1, 1, Limits(
            requests_per_minute=7, tokens_per_minute=7, parallel=7)),
        (Limits(requests_per_minute=7), 1, 4, Limits(requests_per_minute=1)),
    ],
)  # fmt: skip
def test_a_share_is_that_of_one_process_and_what_the_request_needs(
    limits: Limits, tokens: int, processes: int, share: Limits
) -> None:
    asked = ask(Account(id="team:a", limits=limits, budget=hard(5)), account("key:k"), tokens=tokens, cost=7)
    shared = _share(asked, processes)
    assert shared == Ask(
        id=asked.id, accounts=(Account(id="team:a", limits=share), Account(id="key:k")), tokens=tokens, cost=7
    )


class Written:
    """A book that writes down what it is told. knows: it has heard of this process. away: it is not there. hangs: it
    answers no request."""

    def __init__(self) -> None:
        self.knows = True
        self.away = False
        self.hangs = False
        self.told: list[tuple[object, ...]] = []

    def _tell(self, *what: object) -> None:
        if self.away:
            raise BookAwayError
        self.told.append(what)

    async def reserve(self, name: str, ask: Ask, settled: list[Settlement]) -> Grant | None:
        self._tell("reserve", name, ask.id, settled)
        if self.hangs:
            await asyncio.Event().wait()
        return Grant() if self.knows else None

    async def tell(self, name: str, news: News) -> bool:
        self._tell("tell", name, news)
        return self.knows

    async def join(self, name: str, state: State) -> None:
        self._tell("join", name, state)
        self.knows = True

    async def leave(self, name: str, settled: list[Settlement]) -> None:
        self._tell("leave", name, settled)

    async def budgets(self) -> list[BudgetUse]:
        self._tell("budgets")
        return []

    def of(self, kind: str) -> list[tuple[object, ...]]:
        return [(*rest,) for what, *rest in self.told if what == kind]


async def test_it_says_what_was_settled_at_once_and_what_is_open_every_two_seconds() -> None:
    book, team = Written(), account(tokens=100)
    counters = SharedCounters(book, 1, loop_clock)
    name, asked = counters._name, [ask(team, id=f"a{number}") for number in range(3)]
    for one in asked:
        await counters.reserve(one)
    await asyncio.sleep(0.1)
    assert book.of("tell") == [(name, News([], ["a0", "a1", "a2"]))], "what it has when it begins"
    counters.settle("a0", 5, 6)
    await asyncio.sleep(0.1)
    assert book.of("tell")[1:] == [(name, News([Settlement("a0", 5, 6)]))]
    await asyncio.sleep(RENEW_S)
    assert book.of("tell")[2:] == [(name, News([], ["a1", "a2"]))]
    counters.settle("a1", 0, 0)
    await counters.close()
    assert book.of("leave") == [(name, [Settlement("a1", 0, 0)])]
    assert counters.joins == 0


async def test_whom_the_book_does_not_know_it_tells_all_that_it_knows() -> None:
    book, team = Written(), account(tokens=100)
    counters = SharedCounters(book, 2, loop_clock, lambda: {"team:a": {0: 9}})
    first, second = ask(team, id="first"), ask(team, id="second")
    await counters.reserve(first)
    await asyncio.sleep(0.1)
    counters.settle("first", 60, 7)
    await asyncio.sleep(0.1)
    book.knows, book.told = False, []
    await counters.reserve(second)
    assert [what for what, *_ in book.told[:3]] == ["reserve", "join", "reserve"]
    ((_, state),) = book.of("join")
    assert isinstance(state, State)
    (used,) = state.used
    assert (used.account.id, used.requests, used.costs) == ("team:a", 0, [(0, 9)])
    assert 58 <= used.tokens <= 60
    assert (state.settled, state.open, state.absence, state.alone, counters.joins) == ([], [], 0, [], 1)
    await counters.close()


async def test_while_it_is_away_it_is_asked_twice_a_second_and_then_told_what_was_done_alone() -> None:
    book, team = Written(), account(tokens=100)
    counters = SharedCounters(book, 1, loop_clock)
    before = ask(team, id="before", tokens=5)
    await counters.reserve(before)
    book.away = True
    await counters.reserve(ask(team, id="notices", tokens=1))
    assert counters.is_away
    await counters.reserve(ask(team, id="alone", tokens=30))
    counters.settle("alone", 20, 3)
    counters.settle("before", 5, 1)
    with pytest.raises(MeteringUnavailableError) as closed:
        await counters.reserve(ask(account(budget=hard(10**9))))
    assert closed.value.retry_after == RETRY_AFTER_S
    assert closed.value.message == "What is left of the budget cannot be told now."
    with pytest.raises(MeteringUnavailableError) as closed:
        await counters.budgets()
    assert closed.value.retry_after == RETRY_AFTER_S
    assert closed.value.message == "Budgets cannot be counted now."
    book.away, book.told = False, []
    await eventually(lambda: not counters.is_away, timeout_s=RETRY_S + 0.1)
    ((_, state),) = book.of("join")
    assert isinstance(state, State)
    assert {(one.id, one.tokens) for one in state.settled} >= {("alone", 20), ("before", 5)}
    assert ([one.id for one in state.open], state.absence) == (["notices"], 1)
    assert [used.tokens for used in state.alone] in ([19], [20])
    assert [used.tokens for used in state.used] in ([24], [25])
    assert (counters._granted_alone, counters._used_alone.used(at(0))) == (set(), list[Used]())
    await counters.close()


async def test_of_too_many_settlements_the_newest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_counters, "MOST_UNSENT", 3)
    counters = SharedCounters(Written(), 1, loop_clock)

    def send(*numbers: int) -> list[str]:
        for number in numbers:
            counters._send(Settlement(str(number), 0, 0))
        return [one.id for one in counters._unsent]

    assert send(*range(6)) == ["0", "1", "2", "3", "4", "5"]
    assert send(6) == ["4", "5", "6"]

    def fail() -> None:
        with counters._sending() as settled:
            assert [one.id for one in settled] == ["4", "5", "6"]
            assert send(7) == ["7"]
            raise BookAwayError

    with pytest.raises(BookAwayError):
        fail()
    assert [one.id for one in counters._unsent] == ["5", "6", "7"]


async def test_what_is_being_asked_is_told_and_comes_off_where_no_answer_comes() -> None:
    book = Written()
    book.hangs = True
    counters = SharedCounters(book, 1, loop_clock)
    asked = ask(account(budget=hard(100)), id="asked", cost=9)
    asking = asyncio.create_task(counters.reserve(asked))
    await asyncio.sleep(0.1)
    assert book.of("tell") == [(counters._name, News([], [], ["asked"]))]
    with pytest.raises(MeteringUnavailableError):
        await asking
    await eventually(lambda: not counters.is_away, timeout_s=RETRY_S + 0.1)
    ((_, state),) = book.of("join")
    assert isinstance(state, State)
    assert (state.settled, state.open) == ([Settlement("asked", 0, 0)], [])
    await counters.close()
    other = SharedCounters(book, 1, loop_clock)
    asking = asyncio.create_task(other.reserve(ask(account(), id="left")))
    await asyncio.sleep(0.1)
    asking.cancel()
    await asyncio.wait([asking])
    await eventually(lambda: (other._name, News([Settlement("left", 0, 0)])) in book.of("tell"), timeout_s=0.1)
    assert (other._asked, other._open) == (set(), {})
    await other.close()


async def test_who_never_asked_the_book_does_not_leave_it() -> None:
    book = Written()
    await SharedCounters(book, 1, loop_clock).close()
    assert book.told == []
    asked = SharedCounters(book, 1, loop_clock)
    await asked.budgets()
    await asked.close()
    book.away = True
    gone = SharedCounters(book, 1, loop_clock)
    await gone.reserve(ask(account()))
    await gone.close()
    assert [what for what, *_ in book.told] == ["budgets", "leave"]
