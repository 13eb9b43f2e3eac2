"""What a proxy records of its connections."""

from __future__ import annotations

from monitoring import metrics
from monitoring.labels import CONNECTION_REFUSALS, bounded
from monitoring.process import families


class ConnectionMetrics:
    """The metrics of one proxy process."""

    def __init__(self, model: str) -> None:
        own = families()
        own.tell_recorder(model)
        self._refused = {
            reason: own.counter(metrics.CONNECTIONS_REFUSED, model, reason) for reason in CONNECTION_REFUSALS
        }

    def refused(self, reason: str) -> None:
        """A connection was refused, or cut. Reasons are labels.CONNECTION_REFUSALS; others count as `other`."""
        self._refused[bounded(reason, CONNECTION_REFUSALS)].inc()
