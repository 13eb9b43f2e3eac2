"""The spans of one request on its replica: `engine`, and below it queue, prefill and decode of each sequence.

They are made when a sequence has ended, out of the times that the engine and the replica noted anyway: tracing adds
no work to a step or a token.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from deployments.errors import ServeError
from deployments.protocol import Delta, GenerationRequest
from model.request import Output, Request
from monitoring.spans import NO_SPAN, Span, Value
from monitoring.tracing import Tracing

MAX_TRACED_SEQUENCES = 8
"""Of one request; the others are in the request's own span only."""


class RequestTrace:
    """A block in which one request runs. name: of the replica. clock: monotonic seconds; spans use Unix time."""

    def __init__(self, tracing: Tracing, request: GenerationRequest, clock: Callable[[], float], name: str) -> None:
        self.clock = clock
        self.replica = name
        self._tracing = tracing
        self._started_at = clock()
        self._started_ns = time.time_ns()
        self._span: Span = NO_SPAN
        if tracing.enabled and request.trace:
            attributes: dict[str, Value] = {
                "starcoder.sequences": len(request.prompts) * request.best_of,
                "starcoder.request_id": request.client_request_id or request.request_id,
            }
            self._span = tracing.start(
                "engine", request.trace, kind="server", attributes=attributes, start_ns=self._started_ns
            )

    def age_s(self) -> float:
        """Since the request came to the replica."""
        return self.clock() - self._started_at

    def sequence(self, request: Request, index: int) -> SequenceTrace:
        traced = self._span is not NO_SPAN and index < MAX_TRACED_SEQUENCES
        return SequenceTrace(self, index, len(request.prompt_ids), traced)

    def phase(self, name: str, start: float, end: float, attributes: dict[str, Value]) -> None:
        """A span below the request's; start and end by `clock`."""
        parent, start_ns = self._span.carrier, self._unix_ns(start)
        self._tracing.start(name, parent, attributes=attributes, start_ns=start_ns).end(self._unix_ns(end))

    def _unix_ns(self, at: float) -> int:
        return self._started_ns + int((at - self._started_at) * 1e9)

    def __enter__(self) -> RequestTrace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, ServeError):
            self._span.fail(error.code or str(error.status), error.message)
        elif isinstance(error, Exception):  # its message can quote a text
            self._span.fail(type(error).__name__)
        elif error is not None:  # closed or cancelled: the client left
            self._span.set({"error.type": "cancelled"})
        self._span.end()


class SequenceTrace:
    """When one sequence began, spoke and ended. Says so on its deltas, and in spans where it is `traced`."""

    def __init__(self, request: RequestTrace, index: int, prompt_tokens: int, traced: bool) -> None:
        self._request = request
        self._index = index
        self._prompt_tokens = prompt_tokens
        self._traced = traced
        self._submitted_at = request.clock()
        self._first_at: float | None = None
        self._queue_s = 0.0
        self._cached = 0
        self._tokens = 0

    def saw(self, output: Output, delta: Delta) -> None:
        self._tokens += len(output.token_ids)
        if self._first_at is None and output.token_ids:
            self._first_at = self._request.clock()
            self._queue_s, self._cached = output.queue_seconds, output.cached_tokens
            delta.first_token_seconds = self._request.age_s()
            delta.engine = self._request.replica
        if delta.finish_reason is not None:
            delta.ended_seconds = self._request.age_s()
            self.ended(delta.finish_reason)

    def ended(self, reason: str) -> None:
        """Only the first call counts."""
        if not self._traced:
            return
        self._traced = False
        submitted, now = self._submitted_at, self._request.clock()
        common: dict[str, Value] = {"starcoder.sequence": self._index}
        finish: dict[str, Value] = {"starcoder.finish_reason": reason}
        if self._first_at is None:
            # Before the first token nobody here knows whether it ran: no guess at where the queue ended.
            self._request.phase("wait", submitted, now, common | finish)
            return
        started = min(submitted + self._queue_s, self._first_at)
        prefill: dict[str, Value] = {
            "gen_ai.usage.input_tokens": self._prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": self._cached,
        }
        decode: dict[str, Value] = {"gen_ai.usage.output_tokens": self._tokens}
        self._request.phase("queue", submitted, started, common)
        self._request.phase("prefill", started, self._first_at, common | prefill)
        self._request.phase("decode", self._first_at, now, common | decode | finish)
