"""The bucket against the definition of one, in fractions."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from deployments.teams.buckets import MINUTE_NS, Bucket

SECOND_NS = 10**9

STEPS = st.lists(st.tuples(st.integers(0, 90 * SECOND_NS), st.integers(0, 12), st.integers(0, 4)), max_size=40)


@given(limit=st.integers(1, 10), steps=STEPS)
def test_it_is_what_the_definition_says(limit: int, steps: list[tuple[int, int, int]]) -> None:
    bucket, used, now = Bucket(), Fraction(0), 0
    for passed, amount, held in steps:
        now += passed
        used = max(Fraction(0), used - Fraction(limit * passed, MINUTE_NS))
        room = limit - held - used
        assert bucket.left(limit, held, now) == room // 1
        wait = bucket.wait_ns(amount, limit, held, now)
        assert wait == max(0, -((room - amount) * MINUTE_NS // limit))
        bucket.add(amount, limit, now)
        used += amount
    assert bucket.is_empty(now) == (used <= 0)


@given(limit=st.integers(1, 10), steps=st.lists(st.tuples(st.integers(0, 30 * SECOND_NS), st.integers(1, 10))))
def test_no_window_lets_more_pass_than_the_limit(limit: int, steps: list[tuple[int, int]]) -> None:
    bucket, now, passed = Bucket(), 0, []
    for waited, amount in steps:
        now += waited
        if bucket.wait_ns(amount, limit, 0, now) == 0:
            bucket.add(amount, limit, now)
            passed.append((now, amount))
    for first, (start, _) in enumerate(passed):
        total = 0
        for end, amount in passed[first:]:
            total += amount
            assert total <= limit + Fraction(limit * (end - start), MINUTE_NS)


@given(limit=st.integers(1, 10**6), amount=st.integers(1, 10**6), held=st.integers(0, 10**6))
def test_who_waits_as_long_as_told_has_room_and_no_moment_before(limit: int, amount: int, held: int) -> None:
    bucket = Bucket()
    bucket.add(limit, limit, 0)
    wait = bucket.wait_ns(amount, limit, held, 0)
    assert wait > 0
    assert bucket.wait_ns(amount, limit, held, wait - 1) > 0
    fits_ever = amount + held <= limit
    assert (bucket.wait_ns(amount, limit, held, wait) == 0) == fits_ever


def test_a_new_limit_takes_nothing_away_and_forgives_nothing() -> None:
    bucket = Bucket()
    bucket.add(500, 1000, 0)
    assert bucket.left(10, 0, 0) == 5
    assert bucket.left(2000, 0, 0) == 1000
    assert bucket.wait_ns(10, 10, 0, 0) == MINUTE_NS // 2


def test_debt_is_paid_before_anything_passes() -> None:
    bucket = Bucket()
    bucket.add(120, 60, 0)
    assert bucket.left(60, 0, 0) == -60
    assert bucket.wait_ns(1, 60, 0, 0) == 61 * SECOND_NS


def test_a_limit_of_nothing_lets_nothing_in() -> None:
    bucket = Bucket()
    assert all(bucket.wait_ns(1, 0, 0, now) > 0 for now in (0, MINUTE_NS, 10**6 * MINUTE_NS))


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = Bucket()
    bucket.add(60, 60, 100 * SECOND_NS)
    assert bucket.left(60, 0, 50 * SECOND_NS) == 0
    assert bucket.left(60, 0, 101 * SECOND_NS) == 1
