"""Two servers, the same problems, the same seeds: how many problems differ, and whether chance explains it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.quality.estimates import RESAMPLES, Count

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Comparison:
    """better, worse: problems of which the second server has more, or fewer, right answers. difference: of the
    percentages, second less first; low, high: 95 % of it, over problems. p: of so uneven a split, or a more uneven one,
    if either side were as likely (sign test, two-sided; of one answer a problem it is McNemar's exact test).
    same_texts: share of the answers.
    """

    better: int
    worse: int
    difference: float
    low: float
    high: float
    p: float
    same_texts: float

    @property
    def more_than_chance(self) -> bool:
        return self.p < SIGNIFICANT


def compare(first: Sequence[Count], second: Sequence[Count], same_texts: float, seed: int = 0) -> Comparison:
    """Counts of the same problems, in the same order."""
    shares = np.array([b.right / b.of - a.right / a.of for a, b in zip(first, second, strict=True)])
    better, worse = int((shares > 0).sum()), int((shares < 0).sum())
    drawn = np.random.default_rng(seed).integers(len(shares), size=(RESAMPLES, len(shares)))
    low, high = np.percentile(100 * shares[drawn].mean(axis=1), [2.5, 97.5])
    return Comparison(
        better, worse, 100 * float(shares.mean()), float(low), float(high), sign_test(better, worse), same_texts
    )


def sign_test(better: int, worse: int) -> float:
    """Two-sided, exact, ties left out."""
    of = better + worse
    tail: int = sum(math.comb(of, i) for i in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / 2**of)
