"""Intervals and tests over files: against other ways to compute them."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.quality.clustered import (
    Observation,
    difference,
    difference_interval,
    percent_interval,
    ratio,
    ratio_interval,
    sign_flip_test,
)
from benchmarks.quality.comparison import sign_test


def alike_by_file(files: int, seed: int) -> list[Observation]:
    """One to six a file, nearly all right or nearly all wrong."""
    generator = random.Random(seed)
    found = []
    for number in range(files):
        chance = generator.choice((0.05, 0.95))
        found += [Observation(f"f{number}", float(generator.random() < chance)) for _ in range(generator.randint(1, 6))]
    return found


def linearised_error(observations: list[Observation]) -> float:
    """Of a ratio of sums over clusters, by the first term of Taylor's series, as surveys have it."""
    whole, names = ratio(observations), sorted({one.cluster for one in observations})
    residuals = [sum(one.amount - whole * one.per for one in observations if one.cluster == name) for name in names]
    variance = len(names) / (len(names) - 1) * sum(residual**2 for residual in residuals)
    return math.sqrt(variance) / sum(one.per for one in observations)


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_is_as_wide_as_files_that_are_alike_make_it(seed: int) -> None:
    observations = alike_by_file(150, seed)
    between = ratio_interval(observations)
    assert between is not None
    low, high = between
    error = linearised_error(observations)
    assert (low + high) / 2 == pytest.approx(ratio(observations), abs=0.3 * error)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    alone = [Observation(str(number), one.amount) for number, one in enumerate(observations)]
    too_sure = ratio_interval(alone)
    assert too_sure is not None
    assert too_sure[1] - too_sure[0] < 0.75 * (high - low)


def test_it_is_the_bootstrap_of_whole_files() -> None:
    """As a loop draws them, which knows nothing of arrays."""
    observations = [Observation(f"f{number % 40}", float(number % 7), 1.0 + number % 3) for number in range(120)]
    by_file = {name: [o for o in observations if o.cluster == name] for name in {o.cluster for o in observations}}
    generator, drawn = random.Random(1), []
    for _ in range(4000):
        files = [one for name in generator.choices(sorted(by_file), k=len(by_file)) for one in by_file[name]]
        drawn.append(ratio(files))
    low, high = np.percentile(drawn, [2.5, 97.5])
    between = ratio_interval(observations)
    assert between is not None
    assert between[0] == pytest.approx(low, abs=0.1 * (high - low))
    assert between[1] == pytest.approx(high, abs=0.1 * (high - low))


def test_one_file_says_nothing_of_others() -> None:
    assert ratio_interval([Observation("f", 1.0), Observation("f", 0.0)]) is None
    assert ratio_interval([Observation("f", 1.0), Observation("of nothing", 0.0, 0.0)]) is None
    assert ratio_interval([Observation("f", 2.0), Observation("g", 2.0)]) == (2.0, 2.0)


@pytest.mark.parametrize(("files", "most"), [(2, 84.19), (10, 30.85), (100, 3.62)])
def test_what_was_never_seen_is_not_ruled_out(files: int, most: float) -> None:
    """The bounds of Clopper and Pearson for 0 of n, as tables have them."""
    none = [Observation(f"f{number % files}", 0.0) for number in range(3 * files)]
    every = [Observation(one.cluster, 100.0) for one in none]
    assert percent_interval(none) == (0.0, pytest.approx(most, abs=0.01))
    assert percent_interval(every) == (pytest.approx(100 - most, abs=0.01), 100.0)
    some = [*none, Observation("f0", 100.0)]
    assert percent_interval(some) == ratio_interval(some)
    assert percent_interval(none[:1]) is None


@given(st.permutations(alike_by_file(6, 0)))
def test_the_order_of_the_answers_changes_nothing(observations: list[Observation]) -> None:
    assert ratio_interval(observations) == ratio_interval(alike_by_file(6, 0))


def test_a_difference_is_of_pairs() -> None:
    """Files differ a lot; what is the same in each of them is known exactly."""
    first = [Observation(f"f{number}", float(number % 10), 1.0) for number in range(60)]
    second = [Observation(one.cluster, one.amount + 0.5, one.per) for one in first]
    assert difference(first, second) == pytest.approx(0.5)
    assert difference_interval(first, second) == pytest.approx((0.5, 0.5))
    with pytest.raises(ValueError, match="different clusters"):
        difference_interval(first, second[1:])


@given(st.lists(st.integers(-4, 4), max_size=8))
def test_the_flip_test_counts_signs_that_go_as_far(differences: list[int]) -> None:
    observed = abs(sum(differences))
    flips = [
        abs(sum(sign * one for sign, one in zip(signs, differences, strict=True))) >= observed
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    assert sign_flip_test(differences) == pytest.approx(sum(flips) / len(flips))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 5))
def test_of_one_gap_a_file_it_is_mcnemars(better: int, worse: int, equal: int) -> None:
    assert sign_flip_test([1] * better + [-1] * worse + [0] * equal) == pytest.approx(sign_test(better, worse))
