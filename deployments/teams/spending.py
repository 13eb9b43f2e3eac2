"""What an account has spent of its budget, and what it may yet spend."""

from __future__ import annotations

from deployments.teams.records import Budget, Spent


class Spending:
    """Of one account, in the period that it was asked about last. Money is picodollars.

    Two know it: the database, which lags by what is not booked yet; and this count, which knows only what was settled
    here, on top of what the database said when the period was first asked about. The larger one is believed. What is
    reserved belongs to the period in which it was.
    """

    __slots__ = ("_booked", "_counted", "period_start", "reserved")

    def __init__(self) -> None:
        self.period_start = float("-inf")
        self.reserved = 0
        self._counted = 0
        self._booked = 0

    def follow(self, period_start: float, booked: Spent | None) -> None:
        """period_start: of the present period. booked: what the database says, of whichever period."""
        known = booked.amount if booked is not None and booked.period_start == period_start else 0
        if period_start != self.period_start:
            self.period_start = period_start
            self.reserved = 0
            self._counted = known
            self._booked = 0
        self._booked = max(self._booked, known)

    @property
    def spent(self) -> int:
        return max(self._counted, self._booked)

    def has_room(self, cost: int, budget: Budget) -> bool:
        return not budget.hard or self.spent + self.reserved + cost <= budget.amount

    def reserve(self, cost: int) -> None:
        self.reserved += cost

    def release(self, reserved: int, period_start: float) -> None:
        """period_start: of the period in which it was reserved."""
        if period_start == self.period_start:
            self.reserved -= reserved

    def add(self, cost: int, period_start: float) -> None:
        if period_start == self.period_start:
            self._counted += cost
