"""Ollama's API, for the `ollama` package and line by line."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import httpx
import ollama
import pytest

from deployments import errors
from deployments.api import ollama as dialect
from deployments.protocol import Delta, GenerationRequest
from model.text.prompts import Raw
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import ANSWER, MODEL, WINDOW, FakeBackend


async def generate(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/api/generate", json={"model": MODEL, "stream": False, **body})
    assert response.status_code == 200, response.text
    return response.json()


async def test_an_answer_has_ollamas_shape(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    answer = await generate(client, model=MODEL + ":latest", prompt="x = ")
    assert answer["model"] == MODEL + ":latest"
    assert (answer["response"], answer["done"], answer["done_reason"]) == (ANSWER, True, "stop")
    assert answer["prompt_eval_count"] == len(fake_backend.requests[0].prompts[0])
    assert answer["eval_count"] == len(fake_backend.tokens()) + 1
    assert answer["total_duration"] == answer["prompt_eval_duration"] + answer["eval_duration"] > 0
    assert answer["created_at"].startswith("20")


async def test_an_answer_that_comes_at_once_says_how_long_its_parts_took(
    client: httpx.AsyncClient, fake_backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_at_once, now = fake_backend.generate, [7_000_000_000]
    monkeypatch.setattr(dialect, "time", SimpleNamespace(monotonic_ns=lambda: now[0]))

    async def generate_slowly(request: GenerationRequest) -> list[Delta]:
        now[0] += 300_000_000
        (delta,) = await generate_at_once(request)
        delta.first_token_seconds = 0.1
        return [delta]

    monkeypatch.setattr(fake_backend, "generate", generate_slowly)
    answer = await generate(client, prompt="x = ")
    assert answer["prompt_eval_duration"] == 100_000_000
    assert answer["eval_duration"] == 200_000_000
    assert answer["total_duration"] == 300_000_000


async def test_it_streams_lines_where_nothing_is_said(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/generate", json={"model": MODEL, "prompt": "x", "options": {"num_predict": 9}})
    assert response.headers["content-type"].startswith("application/x-ndjson")
    *parts, last = [json.loads(line) for line in response.text.splitlines()]
    assert len(parts) > 3
    assert all(part.keys() == {"model", "created_at", "response", "done"} and not part["done"] for part in parts)
    assert (last["done"], last["done_reason"], last["eval_count"]) == (True, "length", 9)
    assert ANSWER.startswith("".join(part["response"] for part in [*parts, last]))
    assert '"response":"' in response.text


async def test_templates_count_in_a_prompt_but_not_beside_a_suffix(
    client: httpx.AsyncClient, fake_backend: FakeBackend, tokenizer: Tokenizer
) -> None:
    assert tokenizer.fim is not None
    raw = "<fim_prefix>a<fim_suffix>b<fim_middle>"
    await generate(client, prompt=raw, raw=True)
    await generate(client, prompt="a<fim_suffix>", suffix="b")
    await generate(client, suffix="b")
    await generate(client, prompt="a", suffix="")
    await generate(client, prompt=raw, suffix="", raw=True)
    assert [request.prompts[0] for request in fake_backend.requests] == [
        Raw().encode(tokenizer, raw),
        tokenizer.fim.join("spm", tokenizer.encode("a<fim_suffix>"), tokenizer.encode("b")),
        tokenizer.fim.join("spm", [], tokenizer.encode("b")),
        tokenizer.fim.join("spm", tokenizer.encode("a"), []),
        Raw().encode(tokenizer, raw),
    ]


async def test_options(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    options = {"num_predict": 5, "repeat_penalty": 1.5, "seed": 3, "stop": ["x"], "num_ctx": 4096, "mirostat": 1}
    await generate(client, prompt="a", options=options, keep_alive="5m", system="s", context=[1])
    await generate(client, prompt="v = 1\n" * 500, options={"num_predict": -1})
    first, second = fake_backend.requests
    params = first.params
    assert (params.max_tokens, params.repetition_penalty, params.seed, first.stop) == (5, 1.5, 3, ("x",))
    assert (params.temperature, params.top_k, params.top_p) == (0.8, 40, 0.9)
    assert second.params.seed is None
    assert len(second.prompts[0]) + second.params.max_tokens == WINDOW


async def test_an_empty_prompt_loads_the_model(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    answer = await generate(client, stream=True)
    assert (answer["done"], answer["done_reason"], answer["response"]) == (True, "load", "")
    assert fake_backend.requests == []


async def test_failures_have_ollamas_shape(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    for path in ("/api/generate", "/api/show"):
        response = await client.post(path, json={"model": "llama3"})
        assert response.status_code == 404
        assert response.json().keys() == {"error"}
        assert "'llama3' not found" in response.json()["error"]
    response = await client.post("/api/generate", json={"model": MODEL, "prompt": "a", "options": {"top_p": 7}})
    assert response.status_code == 400
    assert "options.top_p" in response.json()["error"]
    assert (await client.post("/api/show", json={})).status_code == 400
    fake_backend.failure, fake_backend.fail_at = errors.EngineUnavailableError("Dead."), 3
    response = await client.post("/api/generate", json={"model": MODEL, "prompt": "a"})
    assert json.loads(response.text.splitlines()[-1]) == {"error": "Dead."}


@pytest.mark.client("ollama (PyPI)", "Ollama")
def test_the_ollama_package(url: str, fake_backend: FakeBackend) -> None:
    client = ollama.Client(host=url)
    answer = client.generate(MODEL, "def f(", suffix="return 1", options={"temperature": 0, "num_predict": 200})
    assert answer.response == ANSWER
    assert answer.done_reason == "stop"
    assert fake_backend.tokenizer.fim is not None
    assert fake_backend.requests[0].prompts[0][0] == fake_backend.tokenizer.fim.prefix
    parts = list(client.generate(MODEL, "x", stream=True))
    assert "".join(part.response for part in parts) == ANSWER
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    (listed,) = client.list().models
    assert listed.model is not None
    assert client.generate(listed.model, "x").response == ANSWER
    shown = client.show(MODEL)
    assert shown.template is not None
    assert ".Suffix" in shown.template
    assert shown.capabilities is not None
    assert "insert" in shown.capabilities
    with pytest.raises(ollama.ResponseError, match="not found") as missing:
        client.generate("llama3", "x")
    assert missing.value.status_code == 404
    fake_backend.failure, fake_backend.fail_at = errors.EngineUnavailableError("A rank died."), 4
    with pytest.raises(ollama.ResponseError, match=r"A rank died\."):
        list(client.generate(MODEL, "x", stream=True))


async def test_version(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/version")).json()["version"] == (await client.get("/version")).json()["version"]
