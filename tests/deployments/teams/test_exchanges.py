"""How many codes reach the identity provider, whoever sends how many here."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.teams import exchanges as module
from deployments.teams.exchanges import ATTEMPT_S, Exchanges
from deployments.teams.sign_in_errors import LaterError, SignInError
from tests.support.stores import Clock


def test_so_many_at_once() -> None:
    exchanges = Exchanges(Clock(), most=2)
    with exchanges.one("a"):
        with exchanges.one("b"), pytest.raises(LaterError), exchanges.one("c"):
            raise AssertionError("three at once")
        with exchanges.one("c"):
            pass


def test_one_of_each_attempt_however_it_ended() -> None:
    exchanges = Exchanges(Clock())
    with contextlib.suppress(ValueError), exchanges.one("a"):
        raise ValueError
    with pytest.raises(SignInError, match="used already"), exchanges.one("a"):
        raise AssertionError("twice")


def test_of_too_many_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_KNOWN", 3)
    exchanges = Exchanges(Clock())

    def again(state: str) -> bool:
        try:
            with exchanges.one(state):
                return True
        except SignInError:
            return False

    assert [again(state) for state in "abc"] == [True] * 3
    assert [again(state) for state in "cba"] == [False] * 3
    assert again("d")
    assert [again(state) for state in "dcb"] == [False] * 3
    assert again("a"), "it was the oldest of four"
    assert len(exchanges._used) == 3


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, ATTEMPT_S)), max_size=50))
def test_none_twice_within_its_time(steps: list[tuple[int, int]]) -> None:
    clock, used = Clock(), dict[str, float]()
    exchanges = Exchanges(clock)
    for number, seconds in steps:
        clock.now += seconds
        state = str(number)
        try:
            with exchanges.one(state):
                assert clock.now - used.get(state, -float("inf")) >= ATTEMPT_S
                used[state] = clock.now
        except SignInError:
            assert state in used
