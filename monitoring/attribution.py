"""What the HTTP front records of completions that repeat known code."""

from __future__ import annotations

from monitoring import front_metrics
from monitoring.process import families


class AttributionMetrics:
    """Of one ingress process; all at zero where attribution is off."""

    def __init__(self, model: str) -> None:
        own = families()
        self._completions = own.counter(front_metrics.ATTRIBUTION_COMPLETIONS, model)
        self._matches = own.counter(front_metrics.ATTRIBUTION_MATCHES, model)
        self._blocked = own.counter(front_metrics.ATTRIBUTION_BLOCKED, model)
        self._failures = own.counter(front_metrics.ATTRIBUTION_FAILURES, model)
        self._seconds = own.histogram(front_metrics.ATTRIBUTION_SECONDS, model)

    def looked(self, matched: bool, blocked: bool, seconds: float) -> None:
        """A completion has been looked up. matched: it has a source; blocked: it was ended early."""
        self._completions.inc()
        self._matches.inc(matched)
        self._blocked.inc(blocked)
        self._seconds.observe(seconds)

    def failed(self) -> None:
        """The index could not be read."""
        self._failures.inc()
