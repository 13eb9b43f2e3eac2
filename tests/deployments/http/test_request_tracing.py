"""Ingress and replica in one process, an engine that says what the test wants, and a real collector."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

import httpx
import pytest

from deployments.cluster.routing import trace_route
from deployments.ingress import create_app
from deployments.protocol import GenerationRequest, ModelInfo
from deployments.replica.admission import Admission
from deployments.replica.service import EngineService
from model.request import SamplingParams
from model.text.tokenizer import Tokenizer
from monitoring import ReplicaMetrics, otlp, tracing
from monitoring.tracing import OFF, Tracing
from tests.support.collector import CollectedSpan, Collector, nobody_collects
from tests.support.fake_engine import FakeEngine
from tests.support.log_lines import LogLines, captured
from tests.support.waiting import eventually, wait_until

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{CALLER}-01", "x-request-id": "r-1"}
SECRET = "swordfish_one_two_three"


class LocalBackend(EngineService):
    async def info(self) -> ModelInfo:
        return ModelInfo(id="fake", max_model_len=256, created=1)


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def traced(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracing]:
    monkeypatch.setattr(otlp, "SEND_EVERY_MS", 20)
    traced = tracing.init(collector.url)
    yield traced
    traced.shutdown(60)
    tracing.init(None)


@pytest.fixture
def lines() -> Iterator[LogLines]:
    with captured() as lines:
        yield lines


def backend(engine: FakeEngine, tokenizer: Tokenizer, traced: Tracing) -> LocalBackend:
    return LocalBackend(engine, tokenizer, Admission(2, 2), 60, ReplicaMetrics("fake"), tracing=traced, name="abc")


@pytest.fixture
async def client(engine: FakeEngine, tokenizer: Tokenizer, traced: Tracing) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(backend=backend(engine, tokenizer, traced), tokenizer=tokenizer, tracing=traced)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def answered(
    engine: FakeEngine, request: Awaitable[httpx.Response], sequences: int = 1, **first: Any
) -> httpx.Response:
    """Send it; the engine then says three tokens for each of its sequences."""
    task = asyncio.ensure_future(request)
    await eventually(lambda: len(engine.requests) == sequences or task.done())
    came_at = time.monotonic()
    await eventually(lambda: time.monotonic() - came_at > first.get("queue_seconds", 0.0))  # as the engine says of them
    for id in engine.requests:
        engine.say(id, 40, **first)
    await eventually(lambda: len(engine.fetched) == sequences or task.done())
    for id in engine.requests:
        engine.say(id, 41, 42, finish="length")
    return await task


def parents(spans: dict[str, CollectedSpan]) -> dict[str, str]:
    names = {span.id: name for name, span in spans.items()}
    return {name: names.get(span.parent, span.parent) for name, span in spans.items()}


NAMES = ("POST /v1/completions", "text_completion fake", "engine", "queue", "prefill", "decode")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_one_trace_from_the_caller_to_decoding(
    client: httpx.AsyncClient, engine: FakeEngine, collector: Collector, lines: LogLines, stream: bool
) -> None:
    body = {"prompt": SECRET, "suffix": SECRET, "max_tokens": 3, "stop": SECRET, "temperature": 0.5, "stream": stream}
    request = client.post("/v1/completions", json=body, headers=HEADERS)
    assert (await answered(engine, request, queue_seconds=0.01, cached_tokens=2)).status_code == 200
    spans = await asyncio.to_thread(collector.trace, TRACE, *NAMES)
    assert parents(spans) == {
        "POST /v1/completions": CALLER,
        "text_completion fake": "POST /v1/completions",
        "engine": "text_completion fake",
        "queue": "engine",
        "prefill": "engine",
        "decode": "engine",
    }
    server, inference, queue, prefill, decode = (spans[NAMES[i]] for i in (0, 1, 3, 4, 5))
    assert (server.kind, inference.kind, spans["engine"].kind) == ("server", "client", "server")
    assert server.attributes | {
        "http.request.method": "POST",
        "url.path": "/v1/completions",
        "url.scheme": "http",
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "starcoder.outcome": "ok",
        "starcoder.request_id": "r-1",
        "starcoder.team": "default",
        "starcoder.dialect": "openai",
    } == (server.attributes)
    (ids,) = (request.prompt_ids for request in engine.requests.values())
    expected = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "starcoder",
        "gen_ai.output.type": "text",
        "gen_ai.request.model": "fake",
        "gen_ai.response.model": "fake",
        "gen_ai.request.max_tokens": 3,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.stream": stream,
        "gen_ai.response.id": next(iter(engine.requests)).removesuffix("-0"),
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": len(ids),
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 2,
    }
    if stream:
        assert 0.01 < inference.attributes.pop("gen_ai.response.time_to_first_chunk") < 60
    assert inference.attributes == expected
    # the engine's own times, end to end
    assert queue.end - queue.start == pytest.approx(1e7, abs=1e3)
    assert queue.end == prefill.start
    assert prefill.end == decode.start
    assert server.start <= inference.start <= spans["engine"].start <= queue.start + 1_000_000
    assert decode.end <= server.end + 1_000_000
    assert prefill.attributes["gen_ai.usage.cache_read.input_tokens"] == 2
    assert decode.attributes["gen_ai.usage.output_tokens"] == 3
    assert not any(span.failed for span in spans.values())
    assert SECRET not in str(collector.spans())
    (line,) = lines.requests()
    assert (line["trace_id"], line["engine"]) == (TRACE, "abc")


async def test_sequences_have_phases_of_their_own(
    client: httpx.AsyncClient, engine: FakeEngine, collector: Collector
) -> None:
    body = {"prompt": "x", "n": 2, "max_tokens": 3}
    await answered(engine, client.post("/v1/completions", json=body, headers=HEADERS), sequences=2)
    spans = await asyncio.to_thread(collector.trace, TRACE, *NAMES)
    assert spans["engine"].attributes["starcoder.sequences"] == 2
    assert spans["text_completion fake"].attributes["gen_ai.request.choice.count"] == 2
    decodes = [span for span in collector.spans(TRACE) if span.name == "decode"]
    assert sorted(span.attributes["starcoder.sequence"] for span in decodes) == [0, 1]


async def test_a_request_that_is_refused_has_no_engine_in_its_trace(
    client: httpx.AsyncClient, collector: Collector
) -> None:
    body = {"prompt": SECRET, "max_tokens": SECRET}
    assert (await client.post("/v1/completions", json=body, headers=HEADERS)).status_code == 400
    spans = await asyncio.to_thread(collector.trace, TRACE, "POST /v1/completions")
    (span,) = spans.values()
    assert span.attributes["starcoder.outcome"] == "refused"
    assert span.attributes["error.type"] == "invalid_value"
    assert not span.failed
    assert SECRET not in str(span)


async def test_an_engine_that_dies_fails_every_span_above_it(
    client: httpx.AsyncClient, engine: FakeEngine, collector: Collector
) -> None:
    task = asyncio.ensure_future(client.post("/v1/completions", json={"prompt": "x"}, headers=HEADERS))
    await eventually(lambda: engine.requests)
    engine.fail("rank 1 died")
    assert (await task).status_code == 503
    spans = await asyncio.to_thread(collector.trace, TRACE, *NAMES[:3], "wait")
    for name in NAMES[:3]:
        assert spans[name].failed, name
        assert spans[name].attributes["error.type"] == "engine_unavailable"
    assert spans["wait"].attributes["starcoder.finish_reason"] == "error"
    assert spans["POST /v1/completions"].attributes["http.response.status_code"] == 503


async def test_a_stream_whose_client_leaves_ends_every_span(
    engine: FakeEngine, tokenizer: Tokenizer, traced: Tracing, collector: Collector
) -> None:
    app = create_app(backend=backend(engine, tokenizer, traced), tokenizer=tokenizer, tracing=traced)
    body = {"prompt": "x", "stream": True, "max_tokens": 50}
    started = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not started.is_set():
            started.set()
            return {"type": "http.request", "body": json.dumps(body).encode()}
        await eventually(lambda: sent)
        return {"type": "http.disconnect"}

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sent.append(message)

    headers = [(k.encode(), v.encode()) for k, v in {**HEADERS, "content-type": "application/json"}.items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers, "query_string": b""}
    task = asyncio.ensure_future(app({**scope, "http_version": "1.1", "scheme": "http"}, receive, send))
    await eventually(lambda: engine.requests)
    engine.say(next(iter(engine.requests)), 40)
    await task
    assert engine.aborted
    spans = await asyncio.to_thread(collector.trace, TRACE, *NAMES)
    assert spans["POST /v1/completions"].attributes["starcoder.outcome"] == "aborted"
    assert spans["decode"].attributes["starcoder.finish_reason"] == "abort"
    for name in ("text_completion fake", "engine"):
        assert spans[name].attributes["error.type"] == "cancelled"
        assert not spans[name].failed


async def test_the_route_is_a_span_below_the_inference(traced: Tracing, collector: Collector) -> None:
    inference = traced.start("inference", {})
    request = GenerationRequest(request_id="r", prompts=[[1]], params=SamplingParams(), trace=inference.carrier)
    trace_route(request, "abc", created_at=1_700_000_000.0, known_tokens=32)
    inference.end()
    spans = await asyncio.to_thread(collector.trace, inference.trace_id, "route", "inference")
    assert parents(spans)["route"] == "inference"
    assert spans["route"].attributes == {"starcoder.engine": "abc", "starcoder.route.known_prefix_tokens": 32}
    assert spans["route"].start == 1_700_000_000 * 10**9


async def test_probes_are_not_traced(client: httpx.AsyncClient, collector: Collector, traced: Tracing) -> None:
    assert (await client.get("/health", headers=HEADERS)).status_code == 200
    traced.start("marker", {}).end()
    await asyncio.to_thread(collector.trace, collector_marker(collector), "marker")
    assert {span.name for span in collector.spans()} == {"marker"}


def collector_marker(collector: Collector) -> str:
    wait_until(lambda: any(span.name == "marker" for span in collector.spans()), "no span came")
    return next(span.trace for span in collector.spans() if span.name == "marker")


async def test_off_nothing_is_carried(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    received: list[GenerationRequest] = []

    class Recording(LocalBackend):
        async def generate(self, request: GenerationRequest) -> list[Any]:
            received.append(request)
            return await super().generate(request)

    recording = Recording(engine, tokenizer, Admission(2, 2), 60, ReplicaMetrics("fake"))
    app = create_app(backend=recording, tokenizer=tokenizer, tracing=OFF)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        await answered(engine, client.post("/v1/completions", json={"prompt": "x"}, headers=HEADERS))
    assert received[0].trace == {}
    assert (received[0].team, received[0].client_request_id) == ("default", "r-1")


async def test_a_collector_that_is_away_changes_no_answer(engine: FakeEngine, tokenizer: Tokenizer) -> None:
    with nobody_collects() as url:
        away = tracing.init(url)
        app = create_app(backend=backend(engine, tokenizer, away), tokenizer=tokenizer, tracing=away)
        with captured() as lines:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                request = client.post("/v1/completions", json={"prompt": "x", "max_tokens": 3}, headers=HEADERS)
                response = await answered(engine, request)
            assert response.status_code == 200
            await eventually(lambda: lines.all("log"))  # the exporter complains
        away.shutdown(0.1)
        tracing.init(None)
    assert [line["outcome"] for line in lines.requests()] == ["ok"]
    assert len(lines.all("log")) == 1
