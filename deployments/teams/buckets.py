"""A limit a minute, exactly: a bucket that fills up with what is used, and drains by the limit in a minute.

This is the token bucket from its other side (capacity = the limit, refilled continuously, full at the beginning), and
the leaky bucket as a meter of ITU-T I.371, as GCRA is. It counts in whole units: each of what is counted is so many as
there are nanoseconds in a minute, and `limit` of them drain in each nanosecond.
"""

from __future__ import annotations

MINUTE_NS = 60 * 10**9


class Bucket:
    """limit: where it is another one than before, what is used takes as long to drain as it would have.

    now: nanoseconds of a clock that never goes back. held: counts as used while it is reserved, and does not drain.
    """

    __slots__ = ("_at", "_limit", "_used")

    def __init__(self) -> None:
        self._used = 0
        self._at = 0
        self._limit = 1

    def left(self, limit: int, held: int, now: int) -> int:
        """Whole ones that still have room; below 0 where more was used than had been reserved."""
        self._follow(limit, now)
        return ((limit - held) * MINUTE_NS - self._used) // MINUTE_NS

    def wait_ns(self, amount: int, limit: int, held: int, now: int) -> int:
        """Until `amount` has room, if nothing more comes; 0 where it has."""
        self._follow(limit, now)
        return max(0, -(-(self._used - (limit - held - amount) * MINUTE_NS) // self._limit))

    def add(self, amount: int, limit: int, now: int) -> None:
        """Whether it has room or not."""
        self._follow(limit, now)
        self._used += amount * MINUTE_NS

    def is_empty(self, now: int) -> bool:
        return self._used <= (now - self._at) * self._limit

    def _follow(self, limit: int, now: int) -> None:
        self._used = max(0, self._used - max(0, now - self._at) * self._limit)
        self._at = max(self._at, now)
        limit = max(1, limit)  # one of 0 lets nothing in; what was used before it was set drains still
        if limit != self._limit:
            self._used = self._used * limit // self._limit
            self._limit = limit
