from __future__ import annotations

import pytest

from deployments.errors import MeteringUnavailableError
from deployments.teams.book import Settlement, Used
from deployments.teams.counting import Grant
from deployments.teams.periods import day_start
from deployments.teams.records import Spent
from deployments.teams.shared_book import GRACE_S, RENEW_S, SILENCE_S, UNDERWAY_S, News, SharedBook, State
from tests.support.asks import NOON, account, ask, at, hard

NOTHING = State([], [], [])


def a_book(*names: str) -> SharedBook:
    book = SharedBook(at(0))
    for name in names:
        book.join(name, NOTHING, at(0))
    return book


def test_whom_it_does_not_know_it_asks_to_join() -> None:
    book, asked = a_book(), ask(account(parallel=1))
    assert book.reserve("a", asked, [], at(0)) is None
    assert not book.tell("a", News([]), at(0))
    book.join("a", NOTHING, at(0))
    assert isinstance(book.reserve("a", asked, [], at(0)), Grant)
    assert book.tell("a", News([], [asked.id]), at(0))
    assert book.tell("a", News([]), at(0)), "nothing is said of what is open"
    book.leave("nobody", [], at(0))
    assert not book.is_deserted


def test_a_dead_caller_leaves_nothing_reserved() -> None:
    book, team = a_book("dead", "living"), account(parallel=3, tokens=10, budget=hard(10))
    living = ask(team, tokens=2, cost=2)
    for name, asked in (("dead", ask(team, tokens=8, cost=8)), ("living", living)):
        assert isinstance(book.reserve(name, asked, [], at(0)), Grant)
    seconds = 0.0
    while seconds < SILENCE_S:
        tally = book.book.tallies["team:a"]
        assert (tally.open, tally.tokens_reserved, tally.spending.reserved) == (2, 10, 10)
        seconds += RENEW_S
        assert book.tell("living", News([], [living.id]), at(seconds))
    assert book.tell("living", News([], [living.id]), at(SILENCE_S + 1))
    assert (tally.open, tally.tokens_reserved, tally.spending.reserved) == (1, 2, 2)
    assert not book.tell("dead", News([]), at(SILENCE_S + 1))


def test_a_caller_is_dead_when_it_was_silent_for_longer_than_it_may_be() -> None:
    book, team = a_book("a"), account(parallel=1)
    book.reserve("a", ask(team), [], at(0))
    assert book.budgets(at(SILENCE_S)) == []
    assert (book.is_deserted, book.book.tallies["team:a"].open) == (False, 1)
    book.budgets(at(SILENCE_S + 0.001))
    assert (book.is_deserted, book.book.tallies["team:a"].open) == (True, 0)


def test_a_caller_that_leaves_takes_its_reservations_along() -> None:
    book, team = a_book("a", "b"), account(tokens=100)
    done, open_still = ask(team, tokens=10), ask(team, tokens=20)
    for asked in (done, open_still):
        book.reserve("a", asked, [], at(0))
    book.leave("a", [Settlement(done.id, 5, 0)], at(0))
    left = book.book.tallies["team:a"].tokens_left(at(0))
    assert left is not None
    assert left.remaining == 95
    assert not book.is_deserted
    book.leave("b", [], at(0))
    assert book.is_deserted


def test_what_comes_off_before_a_request_makes_room_for_it() -> None:
    book, team = a_book("a"), account(parallel=1)
    first, second = ask(team), ask(team)
    book.reserve("a", first, [], at(0))
    assert isinstance(book.reserve("a", second, [Settlement(first.id, 1, 1)], at(0)), Grant)


def test_a_settlement_that_got_lost_is_made_up_for() -> None:
    book, asked = a_book("a"), ask(account(parallel=1))
    book.reserve("a", asked, [], at(0))
    tally = book.book.tallies["team:a"]
    assert book.tell("a", News([], open=[]), at(UNDERWAY_S))
    assert tally.open == 1  # its answer may be underway
    assert book.tell("a", News([], open=[], asked=[asked.id]), at(UNDERWAY_S + 1))
    assert tally.open == 1
    assert book.tell("a", News([], open=[]), at(UNDERWAY_S + 1))
    assert tally.open == 0


def test_a_reservation_that_it_does_not_know_is_told_by_joining() -> None:
    book, asked = a_book("a"), ask(account(parallel=1))
    assert not book.tell("a", News([], open=[asked.id]), at(0))
    book.join("a", State([], [asked], []), at(0))
    assert book.tell("a", News([], open=[asked.id]), at(0))
    assert book.book.tallies["team:a"].open == 1


def test_who_joins_again_is_counted_once() -> None:
    book, team = a_book(), account(tokens=100)
    open_still, state = ask(team, tokens=10), State([], [], [Used(team, 1, 30)])
    for _ in range(2):
        book.join("a", State([], [open_still], state.used), at(0))
    tally = book.book.tallies["team:a"]
    left = tally.tokens_left(at(0))
    assert left is not None
    assert (tally.open, left.remaining) == (1, 60)


def test_what_a_caller_did_alone_is_heard_once_of_each_absence() -> None:
    book, team = a_book("a"), account(tokens=100)
    book.reserve("a", ask(team, tokens=0), [], at(0))
    for absence, used in ((1, 10), (1, 10), (2, 20), (2, 30)):
        alone = [Used(team, 1, used)]
        book.join("a", State([], [], [Used(team, 5, 50)], absence, alone), at(0))
    left = book.book.tallies["team:a"].tokens_left(at(0))
    assert left is not None
    assert left.remaining == 70


def test_who_is_not_known_has_told_all_by_joining() -> None:
    book, team = a_book(), account(tokens=100)
    state = State([], [], [Used(team, 5, 50)], absence=3, alone=[Used(team, 1, 10)])
    for _ in range(2):
        book.join("a", state, at(0))
    left = book.book.tallies["team:a"].tokens_left(at(0))
    assert left is not None
    assert left.remaining == 50


def test_who_is_taken_for_dead_and_comes_back_does_not_tell_twice_what_it_spent() -> None:
    book, team = a_book("a"), account(budget=hard(100))
    asked = ask(team, cost=30)
    book.reserve("a", asked, [], at(0))
    book.tell("a", News([Settlement(asked.id, 1, 30)]), at(1))
    assert book.tell("b", News([]), at(SILENCE_S + 2)) is False  # and "a" is buried
    book.join("a", State([], [], [Used(team, 0, 0, [(day_start(NOON), 30)])]), at(SILENCE_S + 3))
    assert [use.spent for use in book.budgets(at(SILENCE_S + 3))] == [30]


def test_a_book_that_begins_anew_believes_whoever_knows_most_of_the_database() -> None:
    """The database is away: nobody has read of what two callers have spent since."""
    book, today = SharedBook(at(0), succeeds=True), day_start(NOON)
    for name, booked, spent in (("a", 900, 30), ("b", 1000, 50), ("c", 950, 7)):
        team = account(budget=hard(2000), spent=Spent(period_start=today, amount=booked))
        book.join(name, State([], [], [Used(team, 0, 0, [(today, spent)])]), at(1))
    assert [use.spent for use in book.budgets(at(1))] == [1087]


@pytest.mark.parametrize("succeeds", [True, False])
def test_a_book_that_follows_a_dead_one_waits_for_all_before_it_spends(succeeds: bool) -> None:
    book, team = SharedBook(at(0), succeeds), account(budget=hard(10))
    book.join("a", NOTHING, at(0))
    answer = book.reserve("a", ask(team, cost=10), [], at(1))
    if not succeeds:
        assert isinstance(answer, Grant)
        return
    assert isinstance(answer, MeteringUnavailableError)
    assert answer.retry_after == pytest.approx(GRACE_S - 1)
    assert isinstance(book.reserve("a", ask(account("team:b", parallel=1)), [], at(1)), Grant)
    book.join("b", State([], [ask(team, cost=10)], []), at(2))
    assert getattr(book.reserve("a", ask(team, cost=10), [], at(GRACE_S)), "code", None) == "insufficient_quota"
