"""The recorder of one replica: its requests by team and dialect, and its engine."""

from __future__ import annotations

from collections.abc import Iterable

from monitoring import labels, metrics
from monitoring.engine import EngineMetrics
from monitoring.labels import DEFAULT_TEAM, DIALECTS, bounded
from monitoring.requests import RequestMetrics


class ReplicaMetrics(EngineMetrics):
    """The metrics of one replica, which runs one engine. Series of known teams exist, at zero, from the start.

    teams: those with keys. Raises ValueError for too many to tell apart.
    """

    def __init__(self, model: str, teams: Iterable[str] = ()) -> None:
        super().__init__(model)
        self._teams = labels.team_names(teams)
        self._requests: dict[tuple[str, str], RequestMetrics] = {}
        for team in self._teams[:-1]:
            for dialect in DIALECTS:
                self.of(team, dialect)
        self._rule_ends = {rule: self._own.counter(metrics.STOP_RULE_ENDS, model, rule) for rule in labels.STOP_RULES}

    def of(self, team: str = DEFAULT_TEAM, dialect: str = DIALECTS[-1]) -> RequestMetrics:
        """The recorder of a team's requests by a dialect; unknown ones are the team and the dialect `other`."""
        key = bounded(team, self._teams), bounded(dialect, DIALECTS)
        if key not in self._requests:
            self._requests[key] = RequestMetrics(self._model, *key)
        return self._requests[key]

    def rule_ended(self, rule: str) -> None:
        """A rule of labels.STOP_RULES ended a completion. Raises KeyError for another."""
        self._rule_ends[rule].inc()
