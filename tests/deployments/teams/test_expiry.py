"""When a key ends, as people write it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.teams.expiry import expiry, moment
from tests.support.stores import NOON
from tests.support.zones import FAR_EAST, FAR_WEST, standing_at


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90d", 90 * 86_400), ("12h", 43_200), ("30m", 1800), ("2w", 14 * 86_400), ("45s", 45), ("3600", 3600)],
)
def test_spans(text: str, seconds: int) -> None:
    assert expiry(text, NOON) == NOON + seconds


def test_days_and_times() -> None:
    assert expiry("2027-01-16", NOON) == NOON + 43_200
    assert expiry("2027-01-15T13:00:00+00:00", NOON) == NOON + 3600
    assert expiry("2027-01-15T15:00:00+02:00", NOON) == NOON + 3600
    assert moment("1970-01-02") == 86_400


@pytest.mark.parametrize("zone", [FAR_EAST, FAR_WEST])
def test_a_day_is_the_same_wherever_the_server_stands(zone: str) -> None:
    with standing_at(zone):
        assert moment("1970-01-02") == moment("1970-01-02T00:00:00Z") == 86_400
        assert moment("1970-01-02T09:00:00+09:00") == 86_400


@pytest.mark.parametrize("text", ["", "0", "0d", "-3d", "2027-01-15", "2020-01-01", "never", "1y", "999999999w", "٣d"])
def test_what_is_no_end(text: str) -> None:
    with pytest.raises(ValueError, match=r"span|future"):
        expiry(text, NOON)


@given(st.text(max_size=40))
def test_any_text_is_an_end_in_the_future_or_refused(text: str) -> None:
    try:
        at = expiry(text, NOON)
    except ValueError:
        return
    assert NOON < at < NOON + 101 * 366 * 86_400
