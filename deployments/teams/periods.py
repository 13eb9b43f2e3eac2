"""When the period of a budget began, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from deployments.teams.records import Period


def period_start(period: Period, at: float) -> int:
    """Unix seconds."""
    day = datetime.fromtimestamp(at, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "week":
        day -= timedelta(days=day.weekday())
    elif period == "month":
        day = day.replace(day=1)
    return int(day.timestamp())
