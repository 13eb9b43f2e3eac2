"""The recorder of one replica: its requests by team and dialect, and its engine."""

from __future__ import annotations

from monitoring import front_metrics, labels, metrics
from monitoring.engine import EngineMetrics
from monitoring.labels import DEFAULT_TEAM, NOTHING_DECLARED, OTHER_DIALECT, DeclaredLabels, bounded
from monitoring.requests import RequestMetrics


class ReplicaMetrics(EngineMetrics):
    """The metrics of one replica, which runs one engine. The default team's series exist, at zero, from the start.

    declared: what is not among them counts as the dialect `other`.
    """

    def __init__(self, model: str, declared: DeclaredLabels = NOTHING_DECLARED) -> None:
        super().__init__(model)
        # The gauges of dead ingresses go with them. This one stays, and says that there is none.
        self._own.gauge(front_metrics.INGRESSES_UP, model)
        self._dialects = declared.dialects
        self._teams = labels.TeamNames()
        self._requests: dict[tuple[str, str], RequestMetrics] = {}
        for dialect in self._dialects:
            self.of(DEFAULT_TEAM, dialect)
        self._prompt_pieces = self._own.counter(metrics.PROMPT_PIECES, model)
        self._rule_ends = {rule: self._own.counter(metrics.STOP_RULE_ENDS, model, rule) for rule in declared.rules}

    def of(self, team: str = DEFAULT_TEAM, dialect: str = OTHER_DIALECT) -> RequestMetrics:
        """The recorder of a team's requests by a dialect; what is too many or unknown is `other`."""
        key = self._teams.label(team), bounded(dialect, self._dialects)
        if key not in self._requests:
            self._requests[key] = RequestMetrics(self._model, *key)
        return self._requests[key]

    def prompt_piece(self) -> None:
        """A piece of a long prompt of a session is computed."""
        self._prompt_pieces.inc()

    def rule_ended(self, rule: str) -> None:
        """A declared rule ended a completion. Raises KeyError for another."""
        self._rule_ends[rule].inc()
