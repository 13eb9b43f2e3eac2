"""Pieces of long prompts among tenants: classes, shares by weight, and who waits for whom."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.replica.backlog import Standing
from deployments.replica.pace import CAPACITY, SLICE_S, Pace
from deployments.replica.turns import PATIENCE, STALLED_S, Ask
from model.request import LEAST_WEIGHT, MOST_WEIGHT
from model.scheduling.fairness import MOST_OVERTAKEN

SPEED = 1000.0
PIECE = 256
LONG = 6000

FLOOD, TEAM = Standing("flood"), Standing("team")
URGENT, NIGHT = Standing("urgent", service_class=0), Standing("night", service_class=2)


@pytest.fixture
def pace() -> Pace:
    return fast_pace()


def fast_pace() -> Pace:
    pace = Pace()
    pace.stepped(512, 512 / SPEED)
    return pace


def wanting(pace: Pace, standing: Standing, name: str = "", length: int = LONG) -> Ask:
    ask = pace.ask((standing.tenant, name), [len(name) + 1] * length, standing)
    assert pace.wants_piece(ask)
    return ask


def begin(pace: Pace, now: float = 0.0) -> tuple[Ask, int]:
    piece = pace.next_piece(now)
    assert piece is not None
    return piece


def end(pace: Pace, piece: tuple[Ask, int], now: float = 0.0) -> None:
    """And on to the next one, or to its answer, which takes no time."""
    ask = piece[0]
    pace.has_computed(*piece)
    pace.piece_ended(ask, now)
    if not pace.wants_piece(ask):
        pace.answers(ask)
        pace.ended(ask, now)


def compute(pace: Pace) -> tuple[Ask, int]:
    """A piece, as if it took no time; its tokens."""
    piece = begin(pace)
    tokens = piece[1] - piece[0].computed
    end(pace, piece)
    return piece[0], tokens


def test_a_flood_of_sessions_holds_up_nobody_else(pace: Pace) -> None:
    """However many sessions its key makes up, and though each of its prompts needs less."""
    for number in range(40):
        wanting(pace, FLOOD, f"{number}", 4000)
    other = wanting(pace, TEAM, "me", 4001)
    order = [compute(pace)[0] for _ in range(20)]
    assert order.count(other) == 10
    assert other in order[:2]


def test_a_better_class_goes_first(pace: Pace) -> None:
    for number in range(9):
        wanting(pace, NIGHT, f"{number}")
        wanting(pace, TEAM, f"{number}", 2000)
    urgent = wanting(pace, URGENT)
    while (ask := compute(pace)[0]) is urgent:
        pass
    assert (urgent.answered, ask.standing) == (True, TEAM)


def test_a_worse_class_does_not_wait_for_ever(pace: Pace) -> None:
    night = wanting(pace, NIGHT)
    asks = []
    for number in range(3 * MOST_OVERTAKEN + 3):
        wanting(pace, URGENT, f"{number}")
        asks.append(compute(pace)[0])
    assert [at for at, ask in enumerate(asks, 1) if ask is night] == [n * (MOST_OVERTAKEN + 1) for n in (1, 2, 3)]


def test_a_piece_is_held_up_by_none_of_a_worse_class(pace: Pace) -> None:
    wanting(pace, NIGHT)
    begin(pace)
    assert pace.next_at() is None
    urgent = wanting(pace, URGENT)
    assert begin(pace)[0] is urgent


def test_one_piece_is_computed_at_a_time_but_for_those_that_the_engine_lets_wait(pace: Pace) -> None:
    wanting(pace, FLOOD, "a")
    wanting(pace, FLOOD, "b")
    waits = begin(pace, 1.0)
    team = wanting(pace, TEAM)
    assert pace.next_piece(1.0 + STALLED_S - 0.01) is None
    assert pace.next_at() == 1.0 + STALLED_S
    found = begin(pace, 1.0 + STALLED_S)
    assert found[0] is team
    end(pace, found, 1.0 + STALLED_S)
    assert begin(pace, 9.0)[0] is team, "the flood's own waits for its first piece"
    end(pace, waits, 9.0)


def test_who_leaves_gives_the_turn_back(pace: Pace) -> None:
    leaving, team = wanting(pace, FLOOD), wanting(pace, TEAM)
    first = begin(pace)[0]
    pace.ended(first, 0.0)
    assert {first, begin(pace)[0]} == {leaving, team}


def test_who_comes_back_has_saved_nothing_up(pace: Pace) -> None:
    for number in range(40):
        wanting(pace, FLOOD, f"{number}")
    for _ in range(100):
        compute(pace)
    wanting(pace, TEAM, "a")
    wanting(pace, TEAM, "b")
    tenants = [compute(pace)[0].standing.tenant for _ in range(20)]
    assert tenants.count("team") == 10


weights = st.sampled_from([LEAST_WEIGHT, 0.5, 1.0, 3.0, MOST_WEIGHT])


@given(weights, weights, st.lists(st.integers(1500, LONG), min_size=2, max_size=5), st.integers(0, 300))
@settings(deadline=None)
def test_tenants_who_always_wait_get_pieces_by_their_weight(
    one: float, other: float, lengths: list[int], steps: int
) -> None:
    """Over no time they differ by more than two pieces, each over its weight; whatever their prompts are like."""
    pace = fast_pace()
    standings = [Standing("one", one), Standing("other", other)]
    served = dict.fromkeys(standings, 0.0)
    numbers = iter(range(10**6))
    for standing in standings:
        for length in lengths:
            wanting(pace, standing, "x" * next(numbers), length)
    low = high = 0.0
    for _ in range(steps):
        ask, tokens = compute(pace)
        served[ask.standing] += tokens / ask.standing.weight
        if ask.answered:
            wanting(pace, ask.standing, "x" * next(numbers), lengths[0])
        ahead = served[standings[0]] - served[standings[1]]
        low, high = min(low, ahead), max(high, ahead)
    assert high - low <= 2 * PIECE / min(one, other) * (1 + 1e-6)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(1200, 3000)), max_size=25))
@settings(deadline=None)
def test_everybody_is_answered_once_and_nothing_is_left(asked: list[tuple[str, int, int]]) -> None:
    pace = fast_pace()
    asks = []
    for number, (tenant, service_class, length) in enumerate(asked):
        standing = Standing(f"{tenant}{service_class}", 1.0, service_class)
        asks.append(wanting(pace, standing, "x" * number, length))
    while pace.next_at() is not None:
        compute(pace)
    assert all(ask.answered for ask in asks)
    assert not pace._turns


def test_a_tenants_own_patience_is_not_used_up_by_others(pace: Pace) -> None:
    longest = wanting(pace, TEAM, "longest", LONG)
    served = []
    for number in range(4 * PATIENCE):
        wanting(pace, TEAM, "x" * number, 1500)
        wanting(pace, FLOOD, "x" * number, 1500)
        served.append(compute(pace)[0])
    assert served.count(longest) == 2


def test_a_wait_is_told_before_it_begins(pace: Pace) -> None:
    """In pieces of the tokens before it: all of its tenant's that need less, and of others' by weight."""
    prompt = [7] * 2000
    assert pace.wait_of("k", prompt, TEAM) == 0
    for number in range(10):
        wanting(pace, FLOOD, f"{number}", 5000)
    wanting(pace, TEAM, "a", 1500)
    wanting(pace, TEAM, "b", 5000)
    wanting(pace, NIGHT, "c", 5000)
    a_token = SLICE_S / PIECE
    assert pace.wait_of("k", prompt, TEAM) == pytest.approx((1500 + 3500) * a_token)
    assert pace.wait_of("k", prompt, URGENT) == 0
    assert pace.wait_of("k", [7] * 900, TEAM) == 0, "it would not be in pieces"
    now = 0.0
    for _ in range(50):  # others are answered after each: the next one waits for them
        piece = begin(pace, now)
        end(pace, piece, now + 0.3)
        now += 1.3
    assert pace.wait_of("k", prompt, URGENT) == 0
    before = pace._turns.before(TEAM, 2000)
    assert pace.wait_of("k", prompt, TEAM) == pytest.approx(before / PIECE * 1.3, rel=0.01)


def test_a_flood_of_made_up_sessions_empties_nobody_elses_memory(pace: Pace) -> None:
    ask = wanting(pace, TEAM, "me", 2000)
    pace.has_computed(ask, 1900)
    pace.ended(ask, 0.0)
    for number in range(CAPACITY + 10):
        pace.ended(pace.ask(f"{number}", [1], FLOOD), 0.0)
    assert pace.ask(ask.key, ask.prompt, TEAM).computed == 1900
