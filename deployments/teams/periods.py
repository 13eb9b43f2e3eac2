"""Calendar periods of budgets, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from deployments.teams.records import Period

_DAY_S = 86_400


def day_start(at: float) -> int:
    """Of the day that `at` lies in, both in Unix seconds: every period is some days, whole ones."""
    return int(at // _DAY_S) * _DAY_S


def period_start(period: Period, at: float) -> int:
    """When the period began that `at` lies in, both in Unix seconds: a midnight, a Monday's, or that of a first day."""
    midnight = datetime.fromtimestamp(at, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "week":
        midnight -= timedelta(days=midnight.weekday())
    elif period == "month":
        midnight = midnight.replace(day=1)
    return int(midnight.timestamp())
