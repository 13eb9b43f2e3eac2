"""One log line and one trace for every request: what the ingress adds around its routes and around its backend."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import unwrap
from deployments.health import HealthReport
from deployments.http import request_record
from deployments.http.middleware import given_request_id, request_id
from deployments.http.request_record import RequestRecord
from deployments.protocol import Backend, Delta, GenerationRequest, ModelInfo
from monitoring import IngressMetrics, logs
from monitoring.labels import OTHER_DIALECT
from monitoring.spans import NO_CARRIER, NO_SPAN, Span, Value
from monitoring.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from model.text.tokenizer import Tokenizer

PROVIDER = "starcoder"
"""Of `gen_ai.provider.name`: none of OpenTelemetry's own names is ours."""

ArrivedAgo = Callable[[Iterable[tuple[bytes, bytes]]], float]
"""From the fields of a request's head to the seconds since it came."""

_STREAMS = ("text/event-stream", "application/x-ndjson")
_LEVELS = {"failed": logging.ERROR, "shed": logging.WARNING}
_PROBE_FAILED_LEVEL = logging.WARNING
_MAX_HEADER_CHARS = 120
_MAX_TRACE_CHARS = 512
_TEXT_CHARS = 20_000


class ObservationMiddleware:
    """Counts the request and writes its line when it is over, however it ends, and its span where traces are on.

    What succeeds without POST is probes and scrapes, mostly: written for debugging only, not counted and not traced.
    metrics: the recorder, or None until the model's name is known. log_text: note prompts and completions in the line.
    arrived_ago: see `create_app`. clock: in seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        tracing: Tracing,
        metrics: Callable[[], IngressMetrics | None],
        log_text: bool = False,
        arrived_ago: ArrivedAgo | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = app
        self.tracing = tracing
        self.metrics = metrics
        self.log_text = log_text
        self.arrived_ago = arrived_ago
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = self._begin(scope)
        counted = self.metrics() if record.method == "POST" else None
        if counted is not None:
            counted.request_received()

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                record.stream = Headers(raw=message["headers"]).get("content-type", "").startswith(_STREAMS)
            elif record.text_waits and message.get("body"):
                record.sends_text()
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                record.sent_all = True

        try:
            await self.app(scope, receive, send_and_note)
        except Exception as error:
            request_record.report(error, record.request_id)
            raise
        finally:
            # Nothing is awaited here: the task may be being cancelled.
            if counted is not None:
                counted.request_closed()
            self._end(record, scope)

    def _begin(self, scope: Scope) -> RequestRecord:
        headers = Headers(scope=scope)
        agent = headers.get("user-agent")
        record = RequestRecord(
            request_id=request_id(scope) or "",
            method=scope["method"],
            path=scope["path"][:_MAX_HEADER_CHARS],
            given_id=given_request_id(scope),
            user_agent=agent and agent[:_MAX_HEADER_CHARS],
            texts={} if self.log_text else None,
            clock=self.clock,
        )
        if self.arrived_ago is not None:
            record.started_at -= self.arrived_ago(scope["headers"])
        if self.tracing.enabled and record.method == "POST":
            names = ("traceparent", "tracestate")
            # W3C has it that 512 characters are passed on at least; all of it would go with each request and span.
            carrier = {name: headers[name] for name in names if 0 < len(headers.get(name, "")) <= _MAX_TRACE_CHARS}
            record.span = self.tracing.start(
                record.method,
                carrier,
                kind="server",
                attributes={
                    "http.request.method": record.method,
                    "url.path": record.path,
                    "url.scheme": scope.get("scheme", "http"),
                },
            )
        record.make_current()
        return record

    def _end(self, record: RequestRecord, scope: Scope) -> None:
        route = scope.get("route")
        if record.dialect is None and route is not None:
            spoken = getattr(route, "dialect", None)
            record.dialect = (
                spoken.name if spoken else getattr(scope.get("endpoint"), "__module__", "").rpartition(".")[2]
            )
        if record.method == "POST" and (metrics := self.metrics()) is not None:
            _count(record, metrics)
        level = _level(record)
        if logs.logger.isEnabledFor(level):
            logs.event("request", level=level, exception=self._exception(record), **record.fields())
        if record.span is not NO_SPAN:
            _finish_span(record, getattr(route, "path", None))

    def _exception(self, record: RequestRecord) -> str | None:
        return None if record.exception is None else logs.describe(record.exception, self.log_text)


def _count(record: RequestRecord, metrics: IngressMetrics) -> None:
    whose = record.dialect or OTHER_DIALECT, record.team
    metrics.request_ended(record.outcome, *whose)
    if (first := record.first_token_s()) is not None:
        metrics.first_token(first, *whose)
    if record.answered:
        metrics.answered(record.age_s(), *whose)


def _level(record: RequestRecord) -> int:
    error = record.error
    if record.method != "POST":
        if error is None:
            return logging.DEBUG
        if error.status == 503:  # as often as somebody asks, and what failed has lines of its own
            return _PROBE_FAILED_LEVEL
    return _LEVELS.get(record.outcome, logging.INFO)


def _finish_span(record: RequestRecord, route: str | None) -> None:
    span = record.span
    attributes: dict[str, Value] = {
        "starcoder.outcome": record.outcome,
        "starcoder.request_id": record.request_id,
        "starcoder.team": record.team,
    }
    if record.status is not None:
        attributes["http.response.status_code"] = record.status
    if record.dialect is not None:
        attributes["starcoder.dialect"] = record.dialect
    if route is not None:
        attributes["http.route"] = route
        span.rename(f"{record.method} {route}")
    if record.error is not None:
        attributes["error.type"] = record.error.code or str(record.error.status)
    span.set(attributes)
    if record.outcome == "failed" and record.error is not None:
        span.fail(record.error.code or str(record.error.status), record.error.message)
    span.end()


class ObservedBackend:
    """A `Backend` that notes in the request's record what passes, and traces each call of the engine."""

    def __init__(self, backend: Backend, tracing: Tracing, tokenizer: Tokenizer) -> None:
        self._backend = backend
        self._tracing = tracing
        self._tokenizer = tokenizer

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        with self._observed(request, stream=True) as call:
            async with aclosing(self._backend.stream(call.request)) as batches:
                async for deltas in batches:
                    call.saw(deltas)
                    yield deltas

    async def generate(self, request: GenerationRequest) -> list[Delta]:
        with self._observed(request, stream=False) as call:
            deltas = await self._backend.generate(call.request)
            call.saw(deltas)
            return deltas

    async def health(self) -> HealthReport:
        return await self._backend.health()

    async def info(self) -> ModelInfo:
        return await self._backend.info()

    @contextmanager
    def _observed(self, request: GenerationRequest, stream: bool) -> Iterator[_Call]:
        record = request_record.current() or RequestRecord(request.request_id, "", "")
        record.asked(request)
        if record.texts is not None:
            prompts = [self._tokenizer.decode(ids, skip_special=False)[-_TEXT_CHARS:] for ids in request.prompts]
            record.prompts = (record.prompts or []) + prompts
        span: Span = NO_SPAN
        if self._tracing.enabled:
            operation = "chat" if "chat" in record.path else "text_completion"
            attributes = request_attributes(request, record.model, operation, stream)
            name = f"{operation} {record.model}" if record.model else operation
            span = self._tracing.start(name, record.span.carrier, kind="client", attributes=attributes)
        call = _Call(record, request, span, stream)
        try:
            yield call
        except (GeneratorExit, asyncio.CancelledError):
            if request.request_id not in record.whole_ids:
                span.set({"error.type": "cancelled"})
            raise
        except Exception as error:
            found = unwrap(error)
            span.fail(found.code or str(found.status), found.message)
            raise
        finally:
            if span is not NO_SPAN:
                span.set(call.attributes())
                span.end()


class _Call:
    """One call of the backend. request: as it is sent, with what the engine's side needs to know of its origin."""

    def __init__(self, record: RequestRecord, request: GenerationRequest, span: Span, stream: bool) -> None:
        self._stream = stream
        self._record = record
        self._asked_at = time.monotonic()
        self._tokens = 0
        self._cached = 0
        self._reasons: dict[int, str] = {}
        self._first_s: float | None = None
        self.request: GenerationRequest = msgspec.structs.replace(
            request,
            team=record.team,
            dialect=record.dialect or request.dialect,
            client_request_id=record.request_id,
            trace=span.carrier or NO_CARRIER,
        )

    def saw(self, deltas: list[Delta]) -> None:
        self._record.saw(deltas, self._stream)
        if self.request.trace:
            for delta in deltas:
                self._tokens += len(delta.token_ids)
                self._cached = max(self._cached, delta.cached_tokens)
                if delta.finish_reason is not None:
                    self._reasons[delta.index] = delta.finish_reason
            if self._first_s is None and self._tokens:
                self._first_s = time.monotonic() - self._asked_at

    def attributes(self) -> Mapping[str, Value]:
        """Of the response, as far as there was one."""
        attributes: dict[str, Value] = {
            "gen_ai.usage.input_tokens": sum(len(prompt) for prompt in self.request.prompts),
            "gen_ai.usage.output_tokens": self._tokens,
            "gen_ai.usage.cache_read.input_tokens": self._cached,
            "gen_ai.response.id": self.request.request_id,
        }
        if self._reasons:
            attributes["gen_ai.response.finish_reasons"] = [self._reasons[i] for i in sorted(self._reasons)]
        if self._stream and self._first_s is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = round(self._first_s, 6)
        return attributes


def request_attributes(request: GenerationRequest, model: str | None, operation: str, stream: bool) -> dict[str, Value]:
    """OpenTelemetry's GenAI attributes of a request, without its text: stop strings are text, too.

    Source: the registry of opentelemetry-semantic-conventions 0.66b2, `gen_ai.*`.
    """
    params = request.params
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.output.type": "text",
        "gen_ai.request.max_tokens": params.max_tokens,
        "gen_ai.request.temperature": params.temperature,
        "gen_ai.request.top_p": params.top_p,
        "gen_ai.request.stream": stream,
    }
    optional: dict[str, Any] = {
        "gen_ai.request.model": model,
        "gen_ai.response.model": model,
        "gen_ai.request.top_k": params.top_k or None,
        "gen_ai.request.seed": params.seed,
        "gen_ai.request.frequency_penalty": params.frequency_penalty or None,
        "gen_ai.request.presence_penalty": params.presence_penalty or None,
        "gen_ai.request.choice.count": request.n if request.n > 1 else None,
    }
    return attributes | {name: value for name, value in optional.items() if value is not None}
