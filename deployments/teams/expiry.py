"""Until when a key is good, as people write it: `90d`, `12h`, seconds, or a day."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_SPAN = re.compile(r"(\d{1,9})([smhdw]?)", re.ASCII)
_LONGEST_S = 100 * 366 * 86_400


def expiry(text: str, now: float) -> float:
    """Unix seconds. A span is from `now`; a day or a time is UTC unless it says otherwise.

    Raises ValueError for what is neither, or not in the next hundred years.
    """
    if span := _SPAN.fullmatch(text):
        return checked(now + int(span[1]) * _SECONDS[span[2] or "s"], now)
    return checked(moment(text), now)


def checked(at: float, now: float) -> float:
    """A time when something can end. Raises ValueError."""
    if not (math.isfinite(at) and now < at <= now + _LONGEST_S):
        raise ValueError("the end must be in the future, and within a hundred years")
    return at


def moment(text: str) -> float:
    """An ISO 8601 date or time, UTC unless it says otherwise, in Unix seconds. Raises ValueError for other texts."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is neither a span such as 90d nor a day such as 2027-01-31") from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
