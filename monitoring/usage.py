"""What the HTTP front records of what teams use."""

from __future__ import annotations

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
        self._waiting = own.gauge(metrics.USAGE_WAITING, model)
        self._oldest = own.gauge(metrics.USAGE_OLDEST, model)
        for kind in USAGE_KINDS:
            self._tokens(DEFAULT_TEAM, kind)
        self._cost(DEFAULT_TEAM)

    def used(self, team: str, kind: str, tokens: int, dollars: float) -> None:
        """A call of the engine has ended on a team's account. Kinds are labels.USAGE_KINDS."""
        label = self._teams.label(team)
        self._tokens(label, bounded(kind, USAGE_KINDS)).inc(tokens)
        self._cost(label).inc(dollars)

    def booked(self, entries: int) -> None:
        """So many more are in the database."""
        self._booked.inc(entries)

    def waiting(self, entries: int, oldest_s: float) -> None:
        """So many wait for it. oldest_s: since the oldest of them has ended; 0 for none."""
        self._waiting.set(entries)
        self._oldest.set(oldest_s)
