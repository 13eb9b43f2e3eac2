"""What the replica records of its requests: plain numbers in, metrics out."""

from __future__ import annotations

from monitoring import labels, metrics
from monitoring.process import families


class RequestMetrics:
    """The metrics of one team's requests by one dialect. Get it from `ReplicaMetrics.of`."""

    def __init__(self, model: str, team: str, dialect: str) -> None:
        own = families()
        self._first_token = own.histogram(metrics.TIME_TO_FIRST_TOKEN, model, team, dialect)
        self._request = own.histogram(metrics.E2E_REQUEST_LATENCY, model, team, dialect)
        self._inter_token = own.histogram(metrics.INTER_TOKEN_LATENCY, model, team)
        self._queue = own.histogram(metrics.REQUEST_QUEUE_TIME, model, team)
        self._class_queue = [
            own.histogram(metrics.CLASS_QUEUE_TIME, model, service_class) for service_class in labels.SERVICE_CLASSES
        ]
        self._prefill = own.histogram(metrics.REQUEST_PREFILL_TIME, model)
        self._decode = own.histogram(metrics.REQUEST_DECODE_TIME, model)
        self._prompt_tokens = own.histogram(metrics.REQUEST_PROMPT_TOKENS, model, team)
        self._generation_tokens = own.histogram(metrics.REQUEST_GENERATION_TOKENS, model)
        self._finished = {
            reason: own.counter(metrics.REQUEST_SUCCESS, model, team, reason) for reason in labels.FINISH_REASONS
        }
        self._displaced = own.counter(metrics.DISPLACED, model, team)
        self._superseded = own.counter(metrics.SUPERSEDED, model, team)
        self._cancelled = own.counter(metrics.CANCELLED, model, team)
        self._wasted = {cause: own.counter(metrics.WASTED_TOKENS, model, team, cause) for cause in labels.WASTE_CAUSES}
        self._typed_ahead_requests = own.counter(metrics.TYPED_AHEAD_REQUESTS, model, team)
        self._typed_ahead_tokens = own.counter(metrics.TYPED_AHEAD_TOKENS, model, team)

    def first_token(self, seconds: float) -> None:
        """A sequence's first token, `seconds` after its request arrived."""
        self._first_token.observe(seconds)

    def inter_token(self, seconds: float, count: int = 1) -> None:
        """`count` tokens that left together, `seconds` after the ones before: each took its share of the time."""
        for _ in range(count):
            self._inter_token.observe(seconds / count)

    def queued(self, seconds: float, service_class: int = 1) -> None:
        """A sequence ran for the first time, `seconds` after it reached the engine. service_class: its number."""
        self._queue.observe(seconds)
        self._class_queue[service_class].observe(seconds)

    def prefilled(self, seconds: float) -> None:
        """A sequence got its first token, `seconds` after the first step that ran it."""
        self._prefill.observe(seconds)

    def decoded(self, seconds: float) -> None:
        """A sequence got its last token, `seconds` after its first one."""
        self._decode.observe(seconds)

    def request_finished(self, finish_reason: str, seconds: float) -> None:
        """A sequence ended, `seconds` after its request arrived. An unknown reason counts as `error`."""
        self._finished.get(finish_reason, self._finished["error"]).inc()
        self._request.observe(seconds)

    def tokens(self, prompt: int, generated: int) -> None:
        """How many a sequence had when it ended."""
        self._prompt_tokens.observe(prompt)
        self._generation_tokens.observe(generated)

    def displaced(self) -> None:
        """A request lost its place in the full queue to a team that had less of it."""
        self._displaced.inc()

    def superseded(self, wasted_tokens: int) -> None:
        """A request was given up for a newer one of its session, after `wasted_tokens` had been generated for it."""
        self._superseded.inc()
        self._wasted["superseded"].inc(wasted_tokens)

    def cancelled(self, wasted_tokens: int) -> None:
        """A sequence was given up since its client left, after `wasted_tokens` had been generated for it."""
        self._cancelled.inc()
        self._wasted["cancelled"].inc(wasted_tokens)

    def typed_ahead(self, tokens: int) -> None:
        """A request took over `tokens` that were generated before the user typed the text before them."""
        self._typed_ahead_requests.inc()
        self._typed_ahead_tokens.inc(tokens)
