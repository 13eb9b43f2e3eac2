"""What the HTTP front records: how requests ended, why they were refused, what people did with completions."""

from __future__ import annotations

from monitoring import labels, metrics
from monitoring.attribution import AttributionMetrics
from monitoring.labels import DEFAULT_TEAM, NOTHING_DECLARED, OTHER_DIALECT, OUTCOMES, DeclaredLabels, bounded
from monitoring.process import families
from monitoring.usage import UsageMetrics


class IngressMetrics:
    """The metrics of one ingress process.

    declared: what is not among them counts as the dialect `other`. usage: records what teams use.
    attribution: records what completions repeat.
    """

    def __init__(self, model: str, declared: DeclaredLabels = NOTHING_DECLARED) -> None:
        own = families()
        self.usage = UsageMetrics(model)
        self.attribution = AttributionMetrics(model)
        self._teams = labels.TeamNames()
        self._dialects = declared.dialects
        self._requests = own.counters(metrics.HTTP_REQUESTS, model)
        self._rejected = own.counters(metrics.REQUESTS_REJECTED, model)
        self._resumed = own.counter(metrics.REQUESTS_RESUMED, model)
        self._lost = own.counter(metrics.REQUESTS_LOST, model)
        self._waiting = own.gauge(metrics.WAITING_FOR_ENGINE, model)
        # The gauges of dead engines go with them. This one stays, and says that there is none.
        own.gauge(metrics.ENGINES_UP, model)
        for dialect in self._dialects:
            for outcome in OUTCOMES:
                self._requests(DEFAULT_TEAM, dialect, outcome)
        for reason in labels.REJECTION_REASONS:
            self._rejected(DEFAULT_TEAM, reason)
        self._events = {
            (event, language): own.counter(metrics.COMPLETION_EVENTS, model, event, language)
            for event in labels.COMPLETION_EVENT_KINDS
            for language in labels.LANGUAGES
        }

    def request_ended(self, outcome: str, dialect: str = OTHER_DIALECT, team: str = DEFAULT_TEAM) -> None:
        """A request for work has been answered, or not. Outcomes are labels.OUTCOMES."""
        dialect = bounded(dialect, self._dialects)
        self._requests(self._teams.label(team), dialect, bounded(outcome, OUTCOMES)).inc()

    def completion_event(self, event: str, language: str) -> None:
        """Somebody saw, took or dismissed a completion. Events are labels.COMPLETION_EVENT_KINDS.

        A language that is none of labels.LANGUAGES counts as `other`. Raises KeyError for an unknown event.
        """
        self._events[event, bounded(language, labels.LANGUAGES)].inc()

    def engine_died(self, resumed: bool) -> None:
        """An engine died under a request. resumed: another one has it now, else it has failed."""
        (self._resumed if resumed else self._lost).inc()

    def waiting_for_engine(self, count: int) -> None:
        """So many requests wait for an engine that takes them."""
        self._waiting.set(count)

    def rejected(self, reason: str, team: str = DEFAULT_TEAM) -> None:
        """A request was refused. Reasons are labels.REJECTION_REASONS; an unknown one counts as `other`."""
        self._rejected(self._teams.label(team), bounded(reason, labels.REJECTION_REASONS)).inc()
