"""How far behind an ingress is with what a replica tells it, though their clocks differ."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from deployments.http import channels
from deployments.http.channels import _Lag


@pytest.mark.parametrize("clocks_differ_s", [0.0, -3600.0, 3600.0])
def test_the_fastest_message_of_the_last_minutes_is_no_lag(
    monkeypatch: pytest.MonkeyPatch, clocks_differ_s: float
) -> None:
    now = [1000.0]
    monkeypatch.setattr(channels, "time", SimpleNamespace(monotonic=lambda: now[0]))
    lag = _Lag()
    assert lag.seconds == 0

    def saw(age_s: float, after_s: float) -> float:
        now[0] += after_s
        lag.saw(age_s + clocks_differ_s)
        return lag.seconds

    assert saw(0.5, 0) == pytest.approx(0.0)
    assert saw(0.7, 1) == pytest.approx(0.2)
    assert saw(0.25, 1) == pytest.approx(0.0), "a quicker one"
    assert saw(0.75, 50) == pytest.approx(0.5)
    assert saw(1.0, 20) == pytest.approx(0.75), "the least of the minute before counts still"
    assert saw(0.875, 50) == pytest.approx(0.625)
    assert saw(1.25, 20) == pytest.approx(0.375), "no longer: clocks drift"
    assert len(lag._least) == 2
