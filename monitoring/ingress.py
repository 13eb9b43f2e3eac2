"""What the HTTP front records: how requests ended and what clients waited, why they were refused, what people did with
completions."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import Histogram

from monitoring import front_metrics, labels, metrics
from monitoring.attribution import AttributionMetrics
from monitoring.labels import DEFAULT_TEAM, NOTHING_DECLARED, OTHER_DIALECT, OUTCOMES, DeclaredLabels, bounded
from monitoring.process import families
from monitoring.usage import UsageMetrics


class IngressMetrics:
    """The metrics of one ingress process.

    declared: what is not among them counts as the dialect `other`. usage: records what teams use. attribution: records
    what completions repeat. clock: in Unix seconds.
    """

    def __init__(
        self, model: str, declared: DeclaredLabels = NOTHING_DECLARED, clock: Callable[[], float] = time.time
    ) -> None:
        own = families()
        own.tell_recorder(model)
        self.usage = UsageMetrics(model)
        self.attribution = AttributionMetrics(model)
        self._teams = labels.TeamNames()
        self._dialects = declared.dialects
        self._requests = own.counters(metrics.HTTP_REQUESTS, model)
        self._rejected = own.counters(metrics.REQUESTS_REJECTED, model)
        self._resumed = own.counter(front_metrics.REQUESTS_RESUMED, model)
        self._lost = own.counter(front_metrics.REQUESTS_LOST, model)
        self._waiting = own.gauge(front_metrics.WAITING_FOR_ENGINE, model)
        # The gauges of dead engines go with them. This one stays, and says that there is none.
        own.gauge(metrics.ENGINES_UP, model)
        self._own = own
        self._model = model
        self._waits: dict[tuple[str, str], tuple[Histogram, Histogram]] = {}
        own.gauge(front_metrics.INGRESSES_UP, model).set(1)
        self._clock = clock
        self._turns = [own.gauge(spec, model) for spec in (front_metrics.OLDEST_TURN, front_metrics.NEWEST_TURN)]
        self.turned()
        self._received = own.counter(front_metrics.REQUESTS_RECEIVED, model)
        self._open = own.gauge(front_metrics.REQUESTS_OPEN, model)
        self._known: set[tuple[str, str]] = set()
        for dialect in self._dialects:
            self._know(DEFAULT_TEAM, dialect)
            self._waits_of(dialect, DEFAULT_TEAM)
        for reason in labels.REJECTION_REASONS:
            self._rejected(DEFAULT_TEAM, reason)
        self._events = {
            (event, language): own.counter(metrics.COMPLETION_EVENTS, model, event, language)
            for event in labels.COMPLETION_EVENT_KINDS
            for language in labels.LANGUAGES
        }

    def turned(self) -> None:
        """The process's event loop turns. To be called about once a second, by that loop."""
        for gauge in self._turns:
            gauge.set(self._clock())

    def request_received(self) -> None:
        """A request for work has come; `request_closed` follows, whatever becomes of it."""
        self._received.inc()
        self._open.inc()

    def request_closed(self) -> None:
        """One that was received is over."""
        self._open.dec()

    def request_ended(self, outcome: str, dialect: str = OTHER_DIALECT, team: str = DEFAULT_TEAM) -> None:
        """A request for work has been answered, or not. Outcomes are labels.OUTCOMES."""
        dialect, team = bounded(dialect, self._dialects), self._teams.label(team)
        self._know(team, dialect)
        self._requests(team, dialect, bounded(outcome, OUTCOMES)).inc()

    def _know(self, team: str, dialect: str) -> None:
        """Prometheus sees no increase in a series that begins above 0: all outcomes begin with a team's first one."""
        if (team, dialect) not in self._known:
            self._known.add((team, dialect))
            for outcome in OUTCOMES:
                self._requests(team, dialect, outcome)

    def first_token(self, seconds: float, dialect: str = OTHER_DIALECT, team: str = DEFAULT_TEAM) -> None:
        """A client has waited so long for its first token."""
        first, _ = self._waits_of(dialect, team)
        first.observe(seconds)

    def answered(self, seconds: float, dialect: str = OTHER_DIALECT, team: str = DEFAULT_TEAM) -> None:
        """A request that got text has ended, so long after it came."""
        _, whole = self._waits_of(dialect, team)
        whole.observe(seconds)

    def _waits_of(self, dialect: str, team: str) -> tuple[Histogram, Histogram]:
        key = self._teams.label(team), bounded(dialect, self._dialects)
        if key not in self._waits:
            specs = metrics.HTTP_FIRST_TOKEN, metrics.HTTP_REQUEST_TIME
            first, whole = (self._own.histogram(spec, self._model, *key) for spec in specs)
            self._waits[key] = first, whole
        return self._waits[key]

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
