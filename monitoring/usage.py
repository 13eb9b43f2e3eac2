"""What the HTTP front records of what teams use."""

from __future__ import annotations

from collections.abc import Mapping

from monitoring import labels, metrics
from monitoring.labels import DEFAULT_TEAM, USAGE_KINDS, bounded
from monitoring.process import families


class UsageMetrics:
    """Of one ingress process. The default team's series exist, at zero, from the start."""

    def __init__(self, model: str) -> None:
        own = families()
        self._teams = labels.TeamNames()
        self._tokens = own.counters(metrics.USAGE_TOKENS, model)
        self._cost = own.counters(metrics.USAGE_COST, model)
        self._booked = own.counter(metrics.USAGE_BOOKED, model)
        self._refused = own.counter(metrics.USAGE_REFUSED, model)
        self._waiting = own.gauge(metrics.USAGE_WAITING, model)
        self._oldest = own.gauge(metrics.USAGE_OLDEST, model)
        self._budgets = own.gauges(metrics.BUDGET_USED, model)
        self._with_budgets: set[str] = set()
        for kind in USAGE_KINDS:
            self._tokens(DEFAULT_TEAM, kind)
        self._cost(DEFAULT_TEAM)
        self._budgets(DEFAULT_TEAM)

    def used(self, team: str, kind: str, tokens: int, dollars: float) -> None:
        """A call of the engine has ended on a team's account. Kinds are labels.USAGE_KINDS."""
        label = self._teams.label(team)
        self._tokens(label, bounded(kind, USAGE_KINDS)).inc(tokens)
        self._cost(label).inc(dollars)

    def budgets_used(self, shares: Mapping[str, float]) -> None:
        """By team that has a budget, what it has spent of it in the present period."""
        by_label: dict[str, float] = {}
        for team, share in shares.items():
            label = self._teams.label(team)
            by_label[label] = max(share, by_label.get(label, 0.0))  # of those that are told apart no more, the worst
        for label in self._with_budgets - by_label.keys():
            self._budgets(label).set(0.0)
        for label, share in by_label.items():
            self._budgets(label).set(share)
        self._with_budgets |= by_label.keys()

    def booked(self, entries: int) -> None:
        """So many more are in the database."""
        self._booked.inc(entries)

    def refused(self, entries: int) -> None:
        """So many more are set aside, since the database will never take them."""
        self._refused.inc(entries)

    def waiting(self, entries: int, oldest_s: float) -> None:
        """So many wait for it. oldest_s: since the oldest of them has ended; 0 for none."""
        self._waiting.set(entries)
        self._oldest.set(oldest_s)
