"""When requests leave: rate, spread, reproducibility."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.server.arrivals import arrival_times


def intervals(rate: float, burstiness: float) -> np.ndarray:
    return np.diff([0.0, *arrival_times(20_000, rate, burstiness, seed=3)])


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_mean_and_variance(burstiness: float) -> None:
    found = intervals(5.0, burstiness)
    assert (found >= 0).all()
    assert found.mean() == pytest.approx(0.2, rel=0.05)
    assert found.var() == pytest.approx(0.04 / burstiness, rel=0.15)


def test_burstiness_one_is_a_poisson_process() -> None:
    times = np.array(arrival_times(20_000, 5.0, 1.0, seed=4))
    assert (intervals(5.0, 1.0) > 0.2).mean() == pytest.approx(math.exp(-1), abs=0.02)
    counts = np.histogram(times, bins=np.arange(0, times[-1], 1.0))[0]
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.1)


def test_infinite_rate_and_reproducibility() -> None:
    assert arrival_times(3, math.inf) == [0.0, 0.0, 0.0]
    assert arrival_times(50, 2.0, 1.0, 7) == arrival_times(50, 2.0, 1.0, 7) != arrival_times(50, 2.0, 1.0, 8)
    with pytest.raises(ValueError, match="above 0"):
        arrival_times(1, 0.0)
