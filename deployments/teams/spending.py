"""What an account has spent of its budget, and what it may yet spend."""

from __future__ import annotations

from collections import Counter

from deployments.teams.periods import day_start
from deployments.teams.records import Budget, Spent

MOST_PERIODS = 8
"""Of so many it is known what was spent: there are few, unless the clock is set to and fro."""


class _Count:
    """first: what the database said first. booked: what it says. counted: on top of the first."""

    __slots__ = ("booked", "counted", "first")

    def __init__(self, known: int) -> None:
        self.first = known
        self.booked = known
        self.counted = known

    @property
    def spent(self) -> int:
        return max(self.counted, self.booked)


class Spending:
    """Of one account, in the period that it was asked about last. Money is picodollars.

    Two know it: the database, which lags by what is not booked yet; and this count, which knows only what was settled
    here, on top of what the database said when the period was first asked about. The larger one is believed.

    The period is another one when it is over; and, for a while to and fro, where the budget was changed and not all
    who ask have heard of it, or the clock was set. What is reserved or spent has a day (UTC), and belongs to every
    period that holds it: each begins with a day, and the present one ends with none before the present.
    """

    __slots__ = ("_counts", "_reserved", "period_start")

    def __init__(self) -> None:
        self.period_start = float("-inf")
        self._counts = {self.period_start: _Count(0)}
        self._reserved: Counter[int] = Counter()

    def follow(self, period_start: float, booked: Spent | None) -> None:
        """period_start: of the present period. booked: what the database says, of whichever period."""
        known = booked.amount if booked is not None and booked.period_start == period_start else 0
        count = self._counts.pop(period_start, None) or _Count(known)
        count.booked = max(count.booked, known)
        self._counts[period_start] = count
        self.period_start = period_start
        if len(self._counts) > MOST_PERIODS:
            del self._counts[next(iter(self._counts))]  # the one that was asked about longest ago

    def begin_with(self, booked: Spent | None) -> None:
        """What the database said before anything was counted here, from somebody who may know it better."""
        count = self._counts[self.period_start]
        if booked is not None and booked.period_start == self.period_start and booked.amount > count.first:
            count.counted += booked.amount - count.first
            count.first = booked.amount

    @property
    def spent(self) -> int:
        return self._counts[self.period_start].spent

    @property
    def reserved(self) -> int:
        return sum(cost for day, cost in self._reserved.items() if day >= self.period_start)

    def has_room(self, cost: int, budget: Budget) -> bool:
        return not budget.hard or self.spent + self.reserved + cost <= budget.amount

    def reserve(self, cost: int, at: float) -> None:
        """at: Unix seconds."""
        self._reserved[day_start(at)] += cost

    def release(self, reserved: int, at: float) -> None:
        """at: when it was reserved."""
        day = day_start(at)
        self._reserved[day] -= reserved
        if not self._reserved[day]:
            del self._reserved[day]

    def add(self, cost: int, at: float) -> None:
        """at: when it was reserved."""
        day = day_start(at)
        for start, count in self._counts.items():
            if start <= day:
                count.counted += cost
