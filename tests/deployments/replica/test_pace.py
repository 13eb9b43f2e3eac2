"""Whose piece of a long prompt is computed next, and when: the policy, with a clock of the test's own."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from deployments.replica.pace import REST_S, SLICE_S, SLOW_S, Pace, common_length
from deployments.replica.turns import PATIENCE, Ask

SPEED = 1000.0
LONG = int(SPEED * SLOW_S) + 100


@pytest.fixture
def pace() -> Pace:
    pace = Pace()
    pace.stepped(512, 512 / SPEED)
    return pace


def wanting(pace: Pace, key: str, length: int = LONG) -> Ask:
    ask = pace.ask(key, range(length))
    assert pace.wants_piece(ask)
    return ask


def compute(pace: Pace, now: float = 0.0) -> Ask:
    """The next piece, as if it took no time."""
    piece = pace.next_piece(now)
    assert piece is not None
    pace.has_computed(*piece)
    pace.piece_ended(piece[0], now)
    return piece[0]


def test_nothing_is_held_where_prompts_are_fast_or_nobody_knows(pace: Pace) -> None:
    assert not pace.wants_piece(pace.ask("a", range(int(SPEED * SLOW_S))))
    assert not Pace().wants_piece(Pace().ask("a", range(8192)))
    fast = Pace()
    fast.stepped(2048, 0.1)
    fast.stepped(1, 1.0)  # says nothing of prompts
    assert not fast.wants_piece(fast.ask("a", range(8192)))


def test_a_long_prompt_comes_in_pieces_of_the_same_time_and_its_rest_whole(pace: Pace) -> None:
    ask = wanting(pace, "a", 2000)
    ends = []
    while pace.wants_piece(ask):
        piece = pace.next_piece(0.0)
        assert piece == (ask, piece and piece[1])
        ends.append(piece[1])
        pace.has_computed(*piece)
        pace.piece_ended(ask, 0.0)
    steps = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    assert set(steps) == {256}
    assert 0 < ask.left <= SPEED * SLICE_S


def test_what_a_superseded_request_computed_carries_the_next(pace: Pace) -> None:
    older = wanting(pace, "a")
    compute(pace)
    done = older.computed
    assert done > 0
    pace.ended(older, 0.0)
    newer = pace.ask("a", [*range(LONG), 7, 8])
    assert newer.computed == done
    moved = pace.ask("a", [5, *range(LONG)])
    assert moved.computed == 0


def test_between_pieces_whoever_is_answered_comes_to_an_end_or_has_had_his_time(pace: Pace) -> None:
    short = pace.ask("short", range(20))
    pace.answers(short)
    wanting(pace, "long")
    compute(pace, now=1.0)
    wanting(pace, "other")
    assert pace.next_piece(1.0 + REST_S / 2) is None
    late = pace.ask("late", range(20))  # came after the piece: nobody waits for it
    pace.answers(late)
    pace.ended(short, 1.0 + REST_S / 2)
    assert pace.next_piece(1.0 + REST_S / 2) is not None


def test_who_never_ends_holds_up_nobody_for_longer(pace: Pace) -> None:
    pace.answers(pace.ask("short", range(20)))
    wanting(pace, "long")
    ask = compute(pace, now=1.0)
    assert pace.wants_piece(ask)
    assert pace.next_piece(pace.rests_until - 0.01) is None
    assert pace.next_piece(pace.rests_until) is not None


def test_those_that_need_least_go_first_but_not_always(pace: Pace) -> None:
    longest = wanting(pace, "longest", 8000)
    served = []
    for number in range(3 * PATIENCE):
        wanting(pace, f"{number}")
        ask = compute(pace)
        served.append(ask.key)
        pace.wants_piece(ask)
    assert served.count("longest") == 3
    assert longest.left < 8000


def test_one_that_is_given_up_makes_room(pace: Pace) -> None:
    ask = wanting(pace, "a")
    wanting(pace, "b")
    assert pace.next_piece(0.0) is not None
    assert pace.next_piece(0.0) is None
    pace.ended(ask, 0.0)
    piece = pace.next_piece(0.0)
    assert piece is not None
    assert piece[0].key == "b"


@dataclass
class _Typist:
    """waited: pieces of others since its first request that was not answered."""

    ask: Ask | None = None
    waited: int = 0


class Sessions(RuleBasedStateMachine):
    """Editors that ask, type on and give up at any moment, before an engine that computes pieces at any pace."""

    names = "abcde"

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.pace = Pace()
        self.pace.stepped(512, 512 / SPEED)
        self.typists = {name: _Typist() for name in self.names}
        self.piece: tuple[Ask, int] | None = None

    @rule(name=st.sampled_from(names), length=st.integers(1, 6000), typed=st.integers(0, 9))
    def asks(self, name: str, length: int, typed: int) -> None:
        typist = self.typists[name]
        if typist.ask is not None:
            self.gives_up(name)
        typist.ask = self.pace.ask(name, [*range(length), *[3] * typed])
        self._goes_on(name)

    @rule(name=st.sampled_from(names))
    def gives_up(self, name: str) -> None:
        ask = self.typists[name].ask
        if ask is not None:
            self.pace.ended(ask, self.now)
            self.typists[name].ask = None
            if self.piece is not None and self.piece[0] is ask:
                self.piece = None

    @rule(seconds=st.floats(0.01, 2))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.piece is None)
    @rule()
    def a_piece_starts(self) -> None:
        self.piece = self.pace.next_piece(self.now)

    @precondition(lambda self: self.piece is not None)
    @rule()
    def a_piece_ends(self) -> None:
        assert self.piece is not None
        ask, end = self.piece
        assert ask.computed < end < len(ask.prompt)
        self.piece = None
        self.pace.has_computed(ask, end)
        self.pace.piece_ended(ask, self.now)
        for typist in self.typists.values():
            waits = typist.ask is not None and typist.ask is not ask and not typist.ask.answered
            typist.waited = typist.waited + 1 if waits else 0
        self._goes_on(ask.key)

    def _goes_on(self, name: str) -> None:
        typist = self.typists[name]
        assert typist.ask is not None
        if not self.pace.wants_piece(typist.ask):
            self.pace.answers(typist.ask)
            typist.waited = 0

    @invariant()
    def somebody_can_always_go_on(self) -> None:
        """Once everybody has rested, a piece is there for whoever waits."""
        waits = [t for t in self.typists.values() if t.ask is not None and not t.ask.answered]
        if waits and self.piece is None:
            assert self.pace.rests_until <= self.now + REST_S

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        """Of so many pieces one is for who has waited longest, and nobody's prompt takes more than that many."""
        most = PATIENCE * len(self.names) * -(-6000 // 128)
        assert all(typist.waited <= most for typist in self.typists.values())


TestSessions = Sessions.TestCase


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=40))
def test_common_length(one: list[int], other: list[int]) -> None:
    expected = next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    assert common_length(array("I", one), array("I", other)) == expected


def test_large_steps_tell_the_speed_the_newest_by_a_fifth(pace: Pace) -> None:
    for tokens, seconds, speed in ((127, 9.0, 1000.0), (512, 0.0, 1000.0), (128, 0.064, 1200.0), (300, 1.0, 1020.0)):
        pace.stepped(tokens, seconds)
        assert pace.speed == pytest.approx(speed)
