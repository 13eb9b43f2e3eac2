"""When requests are sent."""

from __future__ import annotations

import math

import numpy as np


def arrival_times(count: int, rate: float, burstiness: float = 1.0, seed: int = 0) -> list[float]:
    """Seconds from the start at which `count` requests leave, ascending.

    rate: requests a second on average; infinite: all at once.
    burstiness: shape of the gamma distribution that the intervals are drawn from, whose mean is 1 / rate. 1 is a
        Poisson process, less comes in bursts, more comes evenly (as in `vllm bench serve`; its variance is
        1 / (burstiness * rate^2)).
    """
    if rate <= 0 or burstiness <= 0:
        raise ValueError("rate and burstiness must be above 0")
    if math.isinf(rate):
        return [0.0] * count
    generator = np.random.default_rng(seed)
    intervals = generator.gamma(shape=burstiness, scale=1 / (rate * burstiness), size=count)
    return [float(t) for t in np.cumsum(intervals)]
