"""Every way a request can end, counted once, under its dialect."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NoReturn, get_args

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from deployments.errors import EngineAwayError, EngineUnavailableError, OverloadedError
from deployments.http.request_record import Outcome
from deployments.ingress import create_app
from deployments.labels import declared_labels
from model.text.tokenizer import Tokenizer
from monitoring import IngressMetrics
from monitoring.labels import OUTCOMES
from monitoring.process import init, render
from tests.support.fake_backend import MODEL, FakeBackend
from tests.support.gatekeepers import Keyring
from tests.support.http_server import serving
from tests.support.waiting import wait_until

COMPLETION = {"prompt": "import os", "max_tokens": 3}


@pytest.fixture(autouse=True)
def _in_memory() -> Iterator[None]:
    init(None)
    yield
    init(None)


@pytest.fixture
def app(new_app: FastAPI) -> FastAPI:
    """Not the one that counts the requests of all tests."""
    return new_app


def counted() -> dict[tuple[str, str], float]:
    """(dialect, outcome) -> requests, those that are not 0."""
    return {
        (sample.labels["dialect"], sample.labels["outcome"]): sample.value
        for family in text_string_to_metric_families(render().decode())
        for sample in family.samples
        if sample.name == "starcoder_requests_total" and sample.value
    }


@pytest.mark.parametrize(
    ("path", "body", "dialect"),
    [
        ("/v1/completions", COMPLETION, "openai"),
        ("/v1/completions", {"segments": {"prefix": "import os"}}, "tabby"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}, "openai_chat"),
        ("/v1/fim/completions", {"prompt": "a", "suffix": "b", "max_tokens": 3}, "mistral"),
        ("/beta/completions", {"prompt": "a", "suffix": "b", "max_tokens": 3}, "deepseek"),
        ("/generate", {"inputs": "import os", "parameters": {"max_new_tokens": 3}}, "tgi"),
        ("/infill", {"input_prefix": "a", "input_suffix": "b", "n_predict": 3}, "llamacpp"),
        ("/api/generate", {"model": MODEL, "prompt": "import os", "stream": False}, "ollama"),
    ],
)
async def test_each_dialect_under_its_name(
    client: httpx.AsyncClient, fake_backend: FakeBackend, path: str, body: dict[str, object], dialect: str
) -> None:
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert counted() == {(dialect, "ok"): 1}
    assert {request.dialect for request in fake_backend.requests} == {dialect}


async def test_refused_shed_and_failed(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    await client.post("/v1/completions", json=COMPLETION)  # the model's name is known from now on
    await client.post("/v1/completions", json={"prompt": 5, "max_tokens": "many"})
    fake_backend.failure, fake_backend.failures_left = OverloadedError("full", retry_after=1), 1
    assert (await client.post("/v1/completions", json=COMPLETION)).status_code == 429
    fake_backend.failure, fake_backend.failures_left = EngineUnavailableError("dead"), 1
    assert (await client.post("/v1/completions", json=COMPLETION)).status_code == 503
    await client.get("/health")
    assert counted() == {("openai", name): 1 for name in ("ok", "refused", "shed", "failed")}


@pytest.mark.parametrize(
    ("path", "body", "dialect"),
    [
        ("/v1/completions", COMPLETION, "openai"),
        ("/generate", {"inputs": "import os"}, "tgi"),
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}, "llamacpp"),
        ("/api/generate", {"model": MODEL, "prompt": "import os"}, "ollama"),
    ],
)
async def test_without_an_engine_requests_are_counted_too(
    fake_backend: FakeBackend, tokenizer: Tokenizer, path: str, body: dict[str, object], dialect: str
) -> None:
    """Nobody has said the model's name yet, and still each dialect answers 503, and each request counts."""
    fake_backend.info = fake_backend.health = Absent()  # type: ignore[assignment,method-assign]
    metrics = IngressMetrics(MODEL, declared=declared_labels())
    app = create_app(backend=fake_backend, tokenizer=tokenizer, metrics=metrics)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post(path, json=body)
        health = await client.get("/health")
    # text-generation-inference's own status for a generation that failed
    assert [each.status_code for each in (answer, health)] == [424 if dialect == "tgi" else 503, 503]
    assert [each.headers["retry-after"] for each in (answer, health)] == ["5", "5"]
    assert "No engine is there" in answer.text
    assert counted() == {(dialect, "failed"): 1}
    rendered = render().decode()
    assert f'starcoder_engines_up{{model="{MODEL}"}} 0.0' in rendered
    assert f'starcoder_requests_rejected_total{{model="{MODEL}",reason="unavailable",team="default"}} 1.0' in rendered


async def test_what_is_refused_counts_for_the_team_that_asked(fake_backend: FakeBackend, tokenizer: Tokenizer) -> None:
    keyring, metrics = Keyring(), IngressMetrics(MODEL, declared=declared_labels())
    key = keyring.add("red")
    app = create_app(backend=fake_backend, tokenizer=tokenizer, metrics=metrics, gatekeeper=keyring)
    fake_backend.failure, fake_backend.failures_left = OverloadedError("full", retry_after=1), 1
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for headers, status in (({"authorization": f"Bearer {key}"}, 429), ({}, 401)):
            assert (await client.post("/v1/completions", json=COMPLETION, headers=headers)).status_code == status
    refused = {
        (sample.labels["team"], sample.labels["reason"])
        for family in text_string_to_metric_families(render().decode())
        for sample in family.samples
        if sample.name == "starcoder_requests_rejected_total" and sample.value
    }
    assert refused == {("red", "queue_full"), ("default", "unauthorized")}


class Absent:
    """A call of an engine that is not there."""

    async def __call__(self) -> NoReturn:
        raise EngineAwayError("No engine is there.", retry_after=5.0)


async def test_an_error_in_a_stream_is_no_success(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    await client.post("/v1/completions", json=COMPLETION)
    fake_backend.failure, fake_backend.fail_at = EngineUnavailableError("dead"), 2
    answer = await client.post("/v1/completions", json={**COMPLETION, "max_tokens": 5, "stream": True})
    assert answer.status_code == 200
    assert "error" in answer.text
    assert counted() == {("openai", "ok"): 1, ("openai", "failed"): 1}


async def test_a_client_that_leaves_is_counted(app: FastAPI, fake_backend: FakeBackend) -> None:
    with serving(app) as url:
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            await client.post("/v1/completions", json=COMPLETION)
            fake_backend.gate = asyncio.Event()
            async with client.stream("POST", "/v1/completions", json={**COMPLETION, "stream": True}) as response:
                await anext(response.aiter_lines())
        await asyncio.to_thread(wait_until, lambda: ("openai", "aborted") in counted(), "it is not counted", 30)
    assert counted() == {("openai", "ok"): 1, ("openai", "aborted"): 1}


def test_outcomes_are_the_declared_ones() -> None:
    assert get_args(Outcome) == OUTCOMES
