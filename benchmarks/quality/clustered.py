"""Figures of things that come in clusters, as gaps do in files: those of one file are alike, so files are redrawn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.quality.estimates import RESAMPLES

Interval = tuple[float, float]


@dataclass(frozen=True)
class Observation:
    """cluster: the file. amount: of what is counted, in so much of what it is counted per."""

    cluster: str
    amount: float
    per: float = 1.0


def ratio(observations: Sequence[Observation]) -> float:
    """All amounts by all that they are counted per."""
    return sum(one.amount for one in observations) / sum(one.per for one in observations)


def ratio_interval(observations: Sequence[Observation], seed: int = 0) -> Interval | None:
    """95 % of the ratios of as many clusters, drawn from these whole and with replacement (a cluster bootstrap): what
    other files of this kind might give. None of a single cluster, which says nothing about others.
    """
    sums = _sums(observations)
    return _interval(list(sums), lambda drawn: _ratios(list(sums.values()), drawn), seed)


def percent_interval(observations: Sequence[Observation]) -> Interval | None:
    """The same of percentages of what is true or not. Where all are alike a bootstrap would be sure of what it never
    saw; there the exact bound of Clopper and Pearson stands, with a trial a file.
    """
    found, unseen = ratio_interval(observations), unseen_percent(observations)
    if found == (0.0, 0.0):
        return 0.0, unseen
    return (100.0 - unseen, 100.0) if found == (100.0, 100.0) else found


def unseen_percent(observations: Sequence[Observation]) -> float:
    """What is in none of the files may be in so many of 100 others: 97.5 % sure."""
    files = len({one.cluster for one in observations})
    return 100.0 * (1 - 0.025 ** (1 / files))


def difference(first: Sequence[Observation], second: Sequence[Observation]) -> float:
    return ratio(second) - ratio(first)


def difference_interval(first: Sequence[Observation], second: Sequence[Observation], seed: int = 0) -> Interval | None:
    """The same of the second ratio less the first, in pairs: both of the same clusters, drawn together.

    Raises ValueError where they are of different clusters.
    """
    one, other = _sums(first), _sums(second)
    if one.keys() != other.keys():
        raise ValueError("the two are of different clusters")
    return _interval(
        list(one),
        lambda drawn: _ratios(list(other.values()), drawn) - _ratios(list(one.values()), drawn),
        seed,
    )


def _interval(clusters: Sequence[str], values: Callable[[np.ndarray], np.ndarray], seed: int) -> Interval | None:
    """values: of clusters drawn by number, a row each time."""
    if len(clusters) < 2:
        return None
    drawn = np.random.default_rng(seed).integers(len(clusters), size=(RESAMPLES, len(clusters)))
    low, high = np.percentile(values(drawn), [2.5, 97.5])
    return float(low), float(high)


def _ratios(sums: Sequence[tuple[float, float]], drawn: np.ndarray) -> np.ndarray:
    amounts, pers = np.array(sums).T
    found: np.ndarray = amounts[drawn].sum(axis=1) / pers[drawn].sum(axis=1)
    return found


def _sums(observations: Sequence[Observation]) -> dict[str, tuple[float, float]]:
    """Of each cluster, by name: the order in which answers came changes nothing. Without those of nothing at all."""
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for one in observations:
        found[one.cluster][0] += one.amount
        found[one.cluster][1] += one.per
    return {name: (found[name][0], found[name][1]) for name in sorted(found) if found[name][1]}


def sign_flip_test(differences: Sequence[int]) -> float:
    """How likely a sum as far from 0 is, or one farther, if each difference were as likely to have the other sign.

    differences: of each cluster, whole numbers. Two-sided and exact: Fisher's randomization test of pairs. Where all
    are 1, 0 or -1 it is the sign test, which is McNemar's exact test.
    """
    reach = sum(map(abs, differences))
    chances = np.zeros(2 * reach + 1)  # of each sum, from -reach on
    chances[reach] = 1.0
    for one in map(abs, differences):
        if one:
            chances = (np.roll(chances, one) + np.roll(chances, -one)) / 2  # what would come around is 0 still
    far = abs(np.arange(-reach, reach + 1)) >= abs(sum(differences))
    return min(1.0, float(chances[far].sum()))
