"""Health, version and the documentation."""

from __future__ import annotations

import asyncio
import re

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator

from deployments.errors import EngineUnavailableError, OverloadedError
from deployments.health import EngineHealth, HealthReport, Member
from deployments.protocol import ModelInfo
from model.statistics import ForwardPath
from monitoring.version import package_version
from tests.support.fake_backend import MODEL, FakeBackend
from tests.support.fresh_process import run_fresh

ENGINES = [
    EngineHealth(id="a", state="ready", since=1.0, running=1, waiting=2, kv_cache_usage=0.5, heartbeat_seconds=0.01),
    EngineHealth(id="b", state="silent", since=2.0, reason="It has not answered yet."),
]
INGRESSES = [Member(id="c", state="ready", since=0.5)]


async def test_health_is_that_of_every_engine(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    report = msgspec.structs.replace(fake_backend.report, engines=ENGINES, ingresses=INGRESSES)
    fake_backend.report = report
    response = await client.get("/health")
    assert response.status_code == 200
    well = {
        "status": "ok",
        "running": 1,
        "waiting": 2,
        "kv_cache_usage": 0.5,
        "heartbeat_seconds": 0.01,
        "engines": msgspec.to_builtins(ENGINES),
        "ingresses": msgspec.to_builtins(INGRESSES),
    }
    assert response.json() == well
    for draining, status, code in ((False, "unavailable", "engine_unavailable"), (True, "draining", "draining")):
        fake_backend.report = msgspec.structs.replace(report, healthy=False, reason="why", draining=draining)
        response = await client.get("/health")
        answer = response.json()
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
        assert (answer["error"].pop("message"), answer.pop("error")["code"]) == ("why", code)
        assert answer == {**well, "status": status}


async def test_a_process_that_answers_lives_whatever_its_engines_do(
    client: httpx.AsyncClient, fake_backend: FakeBackend
) -> None:
    """Who asks this would end it otherwise, and what it still answers with it."""
    fake_backend.report = HealthReport(healthy=False, draining=True)
    response = await client.get("/health/live")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_version(new_client: httpx.AsyncClient) -> None:
    answer = (await new_client.get("/version")).json()
    assert re.match(r"\d", answer.pop("version"))
    order = {"fim_mode": "spm", "fim_mode_chosen_by": "family"}
    weights = {"dtype": "float32", "quantization": "none"}
    assert answer == {"forward": None, **weights, **order, "commits": "trained"}


@pytest.mark.parametrize(
    "path", [ForwardPath("native", products="amx"), ForwardPath("torch", "no C compiler is installed")]
)
async def test_version_says_what_computes(
    path: ForwardPath, new_client: httpx.AsyncClient, fake_backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = await fake_backend.info()

    async def with_path() -> ModelInfo:
        return msgspec.structs.replace(info, forward=path, dtype="bfloat16", quantization="int8")

    monkeypatch.setattr(fake_backend, "info", with_path)
    answer = (await new_client.get("/version")).json()
    assert answer["forward"] == msgspec.to_builtins(path)
    assert (answer["dtype"], answer["quantization"]) == ("bfloat16", "int8")


@pytest.mark.parametrize("silent", [False, True])
async def test_version_needs_no_engine(
    silent: bool, new_client: httpx.AsyncClient, fake_backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_engine() -> ModelInfo:
        if silent:
            await asyncio.Event().wait()
        raise EngineUnavailableError("none has started")

    monkeypatch.setattr(fake_backend, "info", no_engine)
    monkeypatch.setattr("deployments.api.operations.ASKING_S", 0.01)
    answer = (await new_client.get("/version")).json()
    assert re.match(r"\d", answer.pop("version"))
    assert answer["forward"] is None
    assert answer["dtype"] is answer["quantization"] is None


async def test_metrics_count_refusals(new_client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    async def refused() -> dict[str, float]:
        response = await new_client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain")
        found = re.findall(
            rf'starcoder_requests_rejected_total{{model="{MODEL}",reason="(\w+)",team="default"}} (\S+)', response.text
        )
        return {reason: float(count) for reason, count in found}

    await new_client.get("/v1/models")
    before = await refused()
    await new_client.post("/v1/completions", json={"prompt": ""})
    await new_client.post("/v1/completions", json={"prompt": "x" * 200_000})
    fake_backend.failure = OverloadedError("full")
    for streaming in (False, True):
        await new_client.post("/v1/completions", json={"prompt": "x", "stream": streaming})
    await new_client.post("/v1/completions", json={"temperature": 9})
    after = await refused()
    grown = {reason: count - before.get(reason, 0) for reason, count in after.items()}
    assert {reason: count for reason, count in grown.items() if count} == {
        "invalid": 2,
        "too_large": 1,
        "queue_full": 2,
    }


async def test_docs_need_nothing_from_outside(client: httpx.AsyncClient) -> None:
    response = await client.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert not re.search(r"(https?:)?//[a-z]", response.text)
    assert "default-src 'none'" in response.headers["content-security-policy"]
    for name, words in {
        "swagger-ui-bundle.js": "SwaggerUI",
        "swagger-ui.css": ".swagger-ui",
        "LICENSE": "Apache",
    }.items():
        assert words in (await client.get(f"/docs/{name}")).text


async def test_the_document_is_sent_once(client: httpx.AsyncClient) -> None:
    first = await client.get("/openapi.json")
    assert first.headers["content-encoding"] == "gzip"
    assert first.json()["info"]["title"] == "StarCoder Serve"
    again = await client.get("/openapi.json", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_every_field_and_route_is_described(app: FastAPI) -> None:
    document = app.openapi()
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert "HTTPValidationError" not in str(operation["responses"]), path
            assert all(parameter.get("description") for parameter in operation.get("parameters", [])), path
    schemas = document["components"]["schemas"]
    assert len(schemas["CompletionRequest"]["properties"]) > 25
    for name, schema in schemas.items():
        Draft202012Validator.check_schema(schema)
        assert [f"{name}.{field}" for field, s in schema["properties"].items() if not s.get("description")] == []


def test_importing_the_ingress_does_not_load_what_takes_long() -> None:
    script = "import deployments.ingress, json, sys; print(json.dumps(list(sys.modules)))"
    loaded = set(run_fresh(script))
    assert "deployments.ingress" in loaded
    assert not loaded & {"torch", "ray", "transformers"}


async def test_the_schema_says_what_and_which_version_it_is_of(client: httpx.AsyncClient) -> None:
    info = (await client.get("/openapi.json")).json()["info"]
    assert (info["title"], info["version"]) == ("StarCoder Serve", package_version())
    assert info["description"].startswith("Code completion and fill-in-the-middle")
