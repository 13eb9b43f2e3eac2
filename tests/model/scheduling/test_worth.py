"""What drafts are worth is measured against steps without, of as many sequences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.scheduling.worth import COMPARED, COMPARED_EVERY, COMPARED_FIRST, SpeculationWorth
from model.statistics import EngineCounters
from monitoring import metrics


def figures(*steps: tuple[int, int, int, float]) -> tuple[float, float]:
    """Time of the steps with drafts, and of as many tokens without. steps: (sequences, drafted, tokens, seconds)."""
    counters = EngineCounters()
    worth = SpeculationWorth(counters)
    for step in steps:
        worth.ended(*step)
    return counters[metrics.DRAFTED_STEP_TIME], counters[metrics.PLAIN_STEP_TIME]


def test_drafts_that_are_right_are_worth_the_steps_that_they_save() -> None:
    assert figures((1, 0, 1, 0.010), (1, 3, 4, 0.012)) == (0.012, 0.040)
    assert figures((4, 0, 4, 0.010), (4, 3, 6, 0.012)) == (0.012, 0.015)


def test_drafts_that_are_wrong_cost_the_difference() -> None:
    drafted, plain = figures((2, 0, 2, 0.010), (2, 6, 2, 0.015))
    assert plain < drafted == 0.015


def test_what_cannot_be_compared_counts_nothing() -> None:
    assert figures((1, 3, 4, 0.012), (2, 0, 2, 0.010), (1, 3, 4, 0.012)) == (0, 0)


def test_where_all_have_drafts_two_in_a_row_go_without() -> None:
    worth = SpeculationWorth(EngineCounters())
    for drafted in (COMPARED_FIRST, COMPARED_EVERY, COMPARED_EVERY):
        for _ in range(drafted):
            assert not worth.compares(4)
            worth.ended(4, 3, 5, 0.010)
        assert not worth.compares(3)  # of this size nobody asks
        for _ in range(COMPARED):
            assert worth.compares(4)
            worth.ended(4, 0, 4, 0.010)


def test_nobody_goes_without_drafts_for_long_where_prompts_never_pause() -> None:
    """Steps without drafts were none without prompts, and tell nothing."""
    worth = SpeculationWorth(EngineCounters())
    without = 0
    for _ in range(10 * (COMPARED_FIRST + COMPARED)):
        if worth.compares(4):
            without += 1
        else:
            worth.ended(4, 3, 5, 0.010)
    assert without == 10 * COMPARED


def test_where_some_have_none_anyway_nobody_is_kept_from_drafting() -> None:
    worth = SpeculationWorth(EngineCounters())
    for _ in range(3 * COMPARED_EVERY):
        for drafted in (3, 3, 0):
            assert not worth.compares(2)
            worth.ended(2, drafted, 2, 0.010)


def test_steps_without_drafts_are_known_by_the_mean_of_the_last_ones() -> None:
    """The newest counts a tenth; those of another number of sequences count nothing."""
    steps = ((1, 0, 1, 0.010), (2, 0, 2, 0.5), (1, 0, 1, 0.020), (1, 3, 4, 0.012))
    assert figures(*steps) == pytest.approx((0.012, 4 * 0.011))
    assert figures(*steps, (1, 0, 1, 0.001), (1, 1, 1, 0.1)) == pytest.approx((0.112, 4 * 0.011 + 0.010))


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 8), st.integers(1, 9), st.floats(0, 1))))
def test_both_only_grow(steps: list[tuple[int, int, int, float]]) -> None:
    counters = EngineCounters()
    worth = SpeculationWorth(counters)
    for sequences, drafted, tokens, seconds in steps:
        before = counters.totals()
        worth.ended(sequences, drafted, max(tokens, sequences), seconds)
        assert all(after >= before[name] for name, after in counters.totals().items())
