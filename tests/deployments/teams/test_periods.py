from __future__ import annotations

from datetime import UTC, datetime

import pytest

from deployments.teams.periods import period_start
from deployments.teams.records import Period


@pytest.mark.parametrize(
    ("period", "at", "start"),
    [
        ("day", "2026-03-01T00:00:00", "2026-03-01"),
        ("day", "2026-02-28T23:59:59", "2026-02-28"),
        ("week", "2026-03-01T12:00:00", "2026-02-23"),  # a Sunday
        ("week", "2026-03-02T00:00:00", "2026-03-02"),
        ("week", "2027-01-01T12:00:00", "2026-12-28"),
        ("month", "2024-02-29T23:59:59", "2024-02-01"),
        ("month", "2026-12-31T23:59:59", "2026-12-01"),
        ("month", "2027-01-01T00:00:00", "2027-01-01"),
    ],
)
def test_when_a_period_began(period: Period, at: str, start: str) -> None:
    moment = datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp()
    assert period_start(period, moment) == datetime.fromisoformat(start).replace(tzinfo=UTC).timestamp()
