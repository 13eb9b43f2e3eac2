"""What this process's requests have cost that the database may not know yet: for a counter that begins anew."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from deployments.teams.periods import day_start
from deployments.teams.records import LedgerEntry

SEEN_S = 10.0
"""What was booked longer ago than this is in every snapshot of the database, if that has been there."""

Costs = dict[str, dict[int, int]]
"""By account and day (UTC, as the ledger has it), in picodollars."""


class Unbooked:
    """Exact, and as large as there are teams, however long the database is away.

    What was booked last stays here until something else has been booked `SEEN_S` later: where the database went away in
    between, not all may have read of it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: Counter[tuple[str, int]] = Counter()
        self._booked: deque[tuple[float, Counter[tuple[str, int]]]] = deque()

    def ended(self, entry: LedgerEntry) -> None:
        """It is going to be booked."""
        self._waiting[_place(entry)] += entry.cost

    def booked(self, entries: Sequence[LedgerEntry]) -> None:
        """Of those that have ended."""
        sums: Counter[tuple[str, int]] = Counter()
        for entry in entries:
            sums[_place(entry)] += entry.cost
        for place, cost in sums.items():
            self._waiting[place] -= cost
            if not self._waiting[place]:
                del self._waiting[place]
        now = self._clock()
        while self._booked and now - self._booked[0][0] >= SEEN_S:
            self._booked.popleft()
        self._booked.append((now, sums))

    def costs(self) -> Costs:
        total = Counter(self._waiting)
        for _, sums in self._booked:
            total.update(sums)
        found: Costs = {}
        for (account, day), cost in total.items():
            if cost:
                found.setdefault(account, {})[day] = cost
        return found


def _place(entry: LedgerEntry) -> tuple[str, int]:
    return f"team:{entry.team_id}", day_start(entry.started_at)
