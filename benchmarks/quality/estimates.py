"""What counts of right answers say: pass@k, and how far chance may have moved it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
TOLERANCE_PERCENT = 0.5
"""Beside two standard errors: for what tokenizers, kernels and rounding of printed figures change."""
ERRORS = 2.0


@dataclass(frozen=True)
class Count:
    """Of one problem: right answers among all."""

    right: int
    of: int


def pass_at_k(count: Count, k: int) -> float:
    """1 - C(n - c, k) / C(n, k), the unbiased estimate of arXiv 2107.03374. Raises ValueError for fewer answers."""
    if count.of < k:
        raise ValueError(f"pass@{k} of {count.of} answers")
    return 1 - math.comb(count.of - count.right, k) / math.comb(count.of, k)


def percent(counts: Sequence[Count], k: int = 1) -> float:
    return 100 * sum(pass_at_k(count, k) for count in counts) / len(counts)


def interval(counts: Sequence[Count], k: int = 1, seed: int = 0) -> tuple[float, float]:
    """95 % of the percentages of as many problems, drawn from these with replacement (a bootstrap): what other
    problems of their kind might give.
    """
    scores = np.array([pass_at_k(count, k) for count in counts])
    drawn = np.random.default_rng(seed).integers(len(scores), size=(RESAMPLES, len(scores)))
    low, high = np.percentile(100 * scores[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def drawing_error(counts: Sequence[Count], samples: int | None = None) -> float:
    """Standard error of the percentage with these very problems: other draws would move it so far.

    samples: of a run with another number of them, whose chances were the same. Variances are unbiased where problems
    have two answers or more; with one each they are bounded by that of problems which are all alike.
    """
    total = 0.0
    overall = sum(count.right for count in counts) / sum(count.of for count in counts)
    for count in counts:
        share = count.right / count.of
        one = share * (1 - share) * count.of / (count.of - 1) if count.of > 1 else overall * (1 - overall)
        total += one / (samples or count.of)
    return 100 * math.sqrt(total) / len(counts)


def reproduced(counts: Sequence[Count], published_percent: float, published_samples: int) -> bool:
    """Whether the difference is within two combined standard errors and `TOLERANCE_PERCENT`."""
    error = math.hypot(drawing_error(counts), drawing_error(counts, published_samples))
    return abs(percent(counts) - published_percent) <= ERRORS * error + TOLERANCE_PERCENT
