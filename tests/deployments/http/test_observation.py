"""What is noted of a request and of its calls of the engine: in its record, its line and its spans."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from deployments.errors import InvalidRequestError, OverloadedError, ServeError
from deployments.http import request_record
from deployments.http.observation import ObservationMiddleware, ObservedBackend, _level, request_attributes
from deployments.http.request_record import RequestRecord
from deployments.protocol import Delta, GenerationRequest
from model.request import SamplingParams
from monitoring.spans import Value
from monitoring.tracing import OFF
from tests.support.accounts import asking
from tests.support.log_lines import captured
from tests.support.waiting import settle


class Span:
    """attributes: all that were set. trace_id: as if it were recorded."""

    trace_id = "t"

    def __init__(self, name: str, parent: Mapping[str, str], kind: str, attributes: Mapping[str, Value]) -> None:
        self.name, self.parent, self.kind = name, dict(parent), kind
        self.attributes = dict(attributes)
        self.carrier = {"traceparent": name}
        self.failed: tuple[str, str] | None = None
        self.ended = 0

    def set(self, attributes: Mapping[str, Value]) -> None:
        self.attributes |= attributes

    def rename(self, name: str) -> None:
        self.name = name

    def fail(self, error_type: str, message: str = "") -> None:
        self.failed = error_type, message

    def end(self, at_ns: int | None = None) -> None:
        self.ended += 1


class Spans:
    enabled = True

    def __init__(self) -> None:
        self.all: list[Span] = []

    def start(
        self, name: str, parent: Mapping[str, str], *, kind: str = "internal", attributes: Mapping[str, Value]
    ) -> Span:
        self.all.append(Span(name, parent, kind, attributes))
        return self.all[-1]


def nobody(*_: object) -> Any:
    raise AssertionError("nobody is asked")


async def nowhere(message: Message) -> None: ...


def request(method: str = "POST", **fields: str) -> Scope:
    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return {"type": "http", "method": method, "path": "/v1/completions", "headers": headers}


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def traced(scope: Scope, app: Any = answers) -> Span:
    spans = Spans()
    await ObservationMiddleware(app, spans, lambda: None)(scope, nobody, nowhere)  # type: ignore[arg-type]
    (span,) = spans.all
    assert span.ended == 1
    return span


async def test_a_request_is_a_span_below_its_callers() -> None:
    """As far as what the caller says of it is short enough to be passed on."""
    scope = {**request(traceparent="p" * 512, tracestate="s" * 513), "scheme": "https"}
    span = await traced(scope)
    assert (span.kind, span.parent) == ("server", {"traceparent": "p" * 512})
    assert span.name == "POST", "there is no route"
    assert span.attributes == {
        "http.request.method": "POST",
        "url.path": "/v1/completions",
        "url.scheme": "https",
        "http.response.status_code": 200,
        "starcoder.outcome": "ok",
        "starcoder.request_id": "",
        "starcoder.team": "default",
    }
    span = await traced(request(traceparent="", tracestate="s" * 512))
    assert (span.parent, span.attributes["url.scheme"]) == ({"tracestate": "s" * 512}, "http")


async def test_a_request_that_gets_no_answer_has_no_status() -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None: ...

    span = await traced(request(), silent)
    assert "http.response.status_code" not in span.attributes
    assert (span.attributes["starcoder.outcome"], span.failed) == ("aborted", None)


@pytest.mark.parametrize(
    ("error", "kind", "fails"),
    [
        (InvalidRequestError("no"), "400", False),
        (InvalidRequestError("no", code="invalid_value"), "invalid_value", False),
        (OverloadedError("full"), "overloaded", False),
        (ServeError("It died."), "500", True),
        (ServeError("It died.", code="engine_unavailable"), "engine_unavailable", True),
    ],
)
async def test_what_fails_is_named_and_what_is_our_fault_fails_its_span(
    error: ServeError, kind: str, fails: bool
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request_record.report(error, None)
        scope["route"] = SimpleNamespace(path="/v1/{what}", dialect=SimpleNamespace(name="openai"))

    span = await traced(request(), app)
    assert (span.name, span.attributes["http.route"]) == ("POST /v1/{what}", "/v1/{what}")
    assert (span.attributes["error.type"], span.attributes["starcoder.dialect"]) == (kind, "openai")
    assert span.failed == ((kind, error.message) if fails else None)


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("HEAD", 200), ("GET", 500)])
async def test_what_is_no_post_is_not_traced(method: str, status: int) -> None:
    spans = Spans()
    await ObservationMiddleware(answers, spans, nobody)(request(method), nobody, nowhere)  # type: ignore[arg-type]
    assert spans.all == []


@pytest.mark.parametrize(
    ("method", "error", "level"),
    [
        ("GET", None, logging.DEBUG),
        ("GET", ServeError("x", status=503), logging.WARNING),
        ("GET", ServeError("x", status=500), logging.ERROR),
        ("GET", InvalidRequestError("x"), logging.INFO),
        ("POST", None, logging.INFO),
        ("POST", ServeError("x", status=503), logging.ERROR),
        ("POST", OverloadedError("x"), logging.WARNING),
        ("POST", InvalidRequestError("x"), logging.INFO),
    ],
)
def test_how_loud_a_line_is(method: str, error: ServeError | None, level: int) -> None:
    assert _level(RequestRecord("r", method, "/", error=error)) == level


@pytest.mark.parametrize(
    ("route", "endpoint", "dialect"),
    [
        (SimpleNamespace(dialect=SimpleNamespace(name="ollama")), None, "ollama"),
        (SimpleNamespace(dialect=None), test_how_loud_a_line_is, "test_observation"),
        (SimpleNamespace(), test_how_loud_a_line_is, "test_observation"),
        (SimpleNamespace(), None, ""),
        (None, test_how_loud_a_line_is, None),
    ],
)
async def test_where_no_route_says_its_dialect_it_is_the_module_that_answers(
    route: object, endpoint: object, dialect: str | None
) -> None:
    scope = {**request(), "route": route, **({} if endpoint is None else {"endpoint": endpoint})}
    with captured() as lines:
        await ObservationMiddleware(answers, OFF, lambda: None)(scope, nobody, nowhere)
    (line,) = lines.requests()
    assert line.get("dialect") == dialect


async def test_what_a_head_says_is_cut_in_the_log_and_its_age_counts() -> None:
    scope = {**request(user_agent="a" * 121), "path": "/" + "b" * 120}
    times = iter([10.0, 12.0])
    with captured() as lines:
        await ObservationMiddleware(
            answers, OFF, lambda: None, arrived_ago=lambda fields: 0.25, clock=lambda: next(times)
        )(scope, nobody, nowhere)
    (line,) = lines.requests()
    assert (line["user_agent"], line["path"]) == ("a" * 120, "/" + "b" * 119)
    assert line["duration_ms"] == 2250.0


@pytest.mark.parametrize(
    ("kind", "stream"),
    [
        ("text/event-stream; charset=utf-8", True),
        ("application/x-ndjson", True),
        ("application/json", False),
        ("", False),
    ],
)
async def test_an_answer_is_a_stream_by_its_kind_and_whole_with_its_last_piece(kind: str, stream: bool) -> None:
    records = list[RequestRecord]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        record = request_record.current()
        assert record is not None
        records.append(record)
        headers = [(b"content-type", kind.encode())] if kind else []
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        assert (record.status, record.stream, record.sent_all) == (201, stream, False)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        record.text_waits = True
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        assert (record.text_waits, record.sent_all) == (True, False)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        assert (record.text_waits, record.sent_all) == (False, False)
        await send({"type": "http.response.body"})

    await ObservationMiddleware(app, OFF, lambda: None)(request(), nobody, nowhere)
    assert records[0].sent_all


class Saying:
    """Answers with these batches, or fails behind them."""

    def __init__(self, *batches: list[Delta], failure: Exception | None = None) -> None:
        self._batches, self._failure = batches, failure
        self.asked: list[GenerationRequest] = []
        self.closed = False

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        self.asked.append(request)
        try:
            for batch in self._batches:
                yield batch
            if self._failure is not None:
                raise self._failure
        finally:
            self.closed = True

    async def generate(self, request: GenerationRequest) -> list[Delta]:
        self.asked.append(request)
        return [delta for batch in self._batches for delta in batch]

    async def health(self) -> Any:
        return "its health"

    async def info(self) -> Any:
        return "its model"


TOKENIZER = SimpleNamespace(decode=lambda ids, skip_special: f"{ids}{skip_special}" if len(ids) < 9 else "x" * 20_001)

PARAMS = SamplingParams(max_tokens=9, temperature=0.5, top_p=0.9)


def observed(backend: Saying, spans: Spans | None = None) -> ObservedBackend:
    return ObservedBackend(backend, spans or OFF, TOKENIZER)  # type: ignore[arg-type]


def asked(**fields: Any) -> GenerationRequest:
    values: dict[str, Any] = {"request_id": "r", "prompts": [[1, 2], [3]], "params": PARAMS}
    return GenerationRequest(**values | fields)


async def read(backend: ObservedBackend, request: GenerationRequest) -> list[Delta]:
    async with aclosing(backend.stream(request)) as batches:
        return [delta async for batch in batches for delta in batch]


NEWS = (
    [Delta(index=0, cached_tokens=2)],
    [Delta(index=1, token_ids=[7, 8]), Delta(index=0, token_ids=[9], cached_tokens=1, finish_reason="stop")],
    [Delta(index=1, token_ids=[7], finish_reason="length")],
)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("path", "operation"), [("/v1/chat/completions", "chat"), ("/infill", "text_completion")])
async def test_a_call_of_the_engine_is_a_span_that_says_what_came(path: str, operation: str, stream: bool) -> None:
    spans, backend = Spans(), Saying(*NEWS)
    with asking() as record:
        record.path, record.model, record.team, record.dialect = path, "m", "red", "tgi"
        record.span = Span("above", {}, "server", {})
        one = observed(backend, spans)
        deltas = await (read(one, asked()) if stream else one.generate(asked()))
    assert len(deltas) == 4
    (span,) = spans.all
    assert (span.name, span.kind, span.parent) == (f"{operation} m", "client", {"traceparent": "above"})
    assert (span.failed, span.ended) == (None, 1)
    first = span.attributes.pop("gen_ai.response.time_to_first_chunk", None)
    assert (first is not None) == stream
    assert span.attributes == {
        **request_attributes(asked(), "m", operation, stream),
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "gen_ai.response.id": "r",
        "gen_ai.response.finish_reasons": ["stop", "length"],
    }
    (sent,) = backend.asked
    assert (sent.team, sent.dialect, sent.client_request_id, sent.trace) == ("red", "tgi", "http-1", span.carrier)


async def test_where_traces_are_off_the_engine_hears_of_none() -> None:
    backend = Saying(*NEWS)
    with asking() as record:
        await read(observed(backend), asked(dialect="mistral"))
    (sent,) = backend.asked
    assert (sent.trace, sent.dialect) == ({}, "mistral")
    assert (record.completion_ids, record.completion_tokens, record.prompts) == (["r"], 4, None)
    one: Any = observed(backend)
    assert (await one.health(), await one.info()) == ("its health", "its model")


async def test_a_call_that_fails_fails_its_span() -> None:
    spans = Spans()
    with pytest.raises(ServeError):
        await read(observed(Saying(NEWS[0], failure=ServeError("It died.", status=503)), spans), asked())
    (span,) = spans.all
    assert (span.failed, span.ended, span.name) == (("503", "It died."), 1, "text_completion")
    assert "gen_ai.response.finish_reasons" not in span.attributes
    assert "gen_ai.response.time_to_first_chunk" not in span.attributes, "no token came"


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_call_that_is_broken_off_says_so_unless_all_is_there(whole: bool, cancelled: bool) -> None:
    spans, backend = Spans(), Saying(*NEWS)

    async def part() -> None:
        with asking():
            if whole:
                request_record.whole("r")
            async with aclosing(observed(backend, spans).stream(asked())) as batches:
                await anext(batches)
                if cancelled:
                    await batches.athrow(asyncio.CancelledError())

    with suppress(asyncio.CancelledError):
        await part()
    await settle()
    (span,) = spans.all
    assert span.attributes.get("error.type") == (None if whole else "cancelled")
    assert (span.failed, span.ended, backend.closed) == (None, 1, True)


async def test_prompts_are_in_the_record_where_text_may_be_logged_and_only_their_ends() -> None:
    with asking() as record:
        record.texts = {}
        await read(observed(Saying()), asked())
        await read(observed(Saying([Delta(index=0, text="y")])), asked(prompts=[[4] * 9]))
    assert record.prompts == ["[1, 2]False", "[3]False", "x" * 20_000]
    assert record.fields()["texts"] == ["y"]


def test_of_a_request_a_span_says_what_was_set() -> None:
    """And no text."""
    plain = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "starcoder",
        "gen_ai.output.type": "text",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.stream": False,
    }
    assert request_attributes(asked(), None, "chat", False) == plain
    params = SamplingParams(
        max_tokens=9, temperature=0.5, top_p=0.9, top_k=5, seed=0, frequency_penalty=0.25, presence_penalty=-0.5
    )
    assert request_attributes(asked(params=params, n=2, best_of=3, stop=("x",)), "m", "chat", False) == {
        **plain,
        "gen_ai.request.model": "m",
        "gen_ai.response.model": "m",
        "gen_ai.request.top_k": 5,
        "gen_ai.request.seed": 0,
        "gen_ai.request.frequency_penalty": 0.25,
        "gen_ai.request.presence_penalty": -0.5,
        "gen_ai.request.choice.count": 2,
    }
