"""What the router records: where requests went, and what it expected of their caches."""

from __future__ import annotations

from monitoring import front_metrics
from monitoring.labels import ROUTING_REASONS, RoutingReason
from monitoring.process import families


class RoutingMetrics:
    """The metrics of one router, of an ingress process."""

    def __init__(self, model: str) -> None:
        own = families()
        self._decisions = {
            reason: own.counter(front_metrics.ROUTING_DECISIONS, model, reason) for reason in ROUTING_REASONS
        }
        self._known = own.counter(front_metrics.KNOWN_PREFIX_TOKENS, model)
        self._expected = own.counter(front_metrics.EXPECTED_PREFIX_TOKENS, model)

    def routed(self, reason: RoutingReason, known_tokens: int, expected_tokens: int) -> None:
        """A request went to an engine.

        known_tokens: of its prompt, thought to be cached by the engine that has most of them; expected_tokens: by this.
        """
        self._decisions[reason].inc()
        self._known.inc(known_tokens)
        self._expected.inc(expected_tokens)
