"""Mistral's and DeepSeek's fill-in-the-middle, for their own packages and field by field."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from mistralai.client import Mistral
from mistralai.client.errors import SDKError

from deployments.errors import OverloadedError
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import ANSWER, MODEL, FakeBackend


@pytest.fixture
def mistral(url: str) -> Mistral:
    return Mistral(api_key="none", server_url=url)


async def fill(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/v1/fim/completions", json={"model": MODEL, "prompt": "x = ", **body})
    assert response.status_code == 200, response.text
    return response.json()


async def test_a_chat_completion_answers(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    answer = await fill(client, suffix="\ny = 2", max_tokens=100, random_seed=7, min_tokens=3, stop="return")
    (request,) = fake_backend.requests
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": ANSWER.split("return")[0]},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"]["prompt_tokens"] == len(request.prompts[0])
    params = request.params
    assert (params.seed, params.min_tokens, params.max_tokens, params.temperature) == (7, 3, 100, 0.2)


async def test_both_sides_are_plain_text(
    client: httpx.AsyncClient, fake_backend: FakeBackend, tokenizer: Tokenizer
) -> None:
    assert tokenizer.fim is not None
    await fill(client, prompt="a<fim_suffix>", suffix="<|endoftext|>b")
    await fill(client, prompt="<fim_prefix>a<fim_suffix>b<fim_middle>", suffix="")
    first, second = (request.prompts[0] for request in fake_backend.requests)
    assert first == tokenizer.fim.join("spm", tokenizer.encode("a<fim_suffix>"), tokenizer.encode("<|endoftext|>b"))
    assert second == tokenizer.fim.join("spm", tokenizer.encode("<fim_prefix>a<fim_suffix>b<fim_middle>"), [])


async def test_what_is_too_long_is_cut_and_the_window_is_filled(
    client: httpx.AsyncClient, fake_backend: FakeBackend
) -> None:
    lines = "".join(f"v{i} = {i}\n" for i in range(300))
    for limit in (None, 20, 100_000):
        await fill(client, prompt=lines, suffix=lines, max_tokens=limit)
        request = fake_backend.requests[-1]
        assert len(request.prompts[0]) + request.params.max_tokens <= fake_backend.window
        assert request.params.max_tokens >= (limit if limit == 20 else 64)
    await fill(client, prompt="x", max_tokens=None)
    assert fake_backend.requests[-1].params.max_tokens == fake_backend.window - 4, "the markers have their place"


async def test_a_stream_ends_with_its_usage(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/fim/completions", json={"model": MODEL, "prompt": "x", "stream": True})
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert ["usage" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == ANSWER


async def test_refusals(client: httpx.AsyncClient) -> None:
    for body, status, param in (
        ({"model": "codestral-latest"}, 404, "model"),
        ({"temperature": 3}, 400, "temperature"),
        ({"prompt": None}, 400, "prompt"),
        ({"min_tokens": 9, "max_tokens": 2}, 400, "min_tokens"),
    ):
        response = await client.post("/v1/fim/completions", json={"prompt": "x", **body})
        assert (response.status_code, response.json()["error"]["param"]) == (status, param)


@pytest.mark.client("mistralai (PyPI)", "Mistral")
def test_the_mistralai_package(mistral: Mistral, fake_backend: FakeBackend) -> None:
    answer = mistral.fim.complete(
        model=MODEL, prompt="def f(", suffix="return 1", max_tokens=150, temperature=0, random_seed=1, stop=["漢"]
    )
    assert answer.choices[0].message is not None
    assert answer.choices[0].message.content == ANSWER.split("漢")[0]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens
    with mistral.fim.stream(model=MODEL, prompt="def f(", suffix="return 1") as stream:
        chunks = [event.data for event in stream]
    assert "".join(str(chunk.choices[0].delta.content) for chunk in chunks) == ANSWER
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    fake_backend.failure = OverloadedError("The queue is full.")
    with pytest.raises(SDKError) as refused:
        mistral.fim.complete(model=MODEL, prompt="x", retries=None)
    assert refused.value.status_code == 429


@pytest.mark.client("mistralai (PyPI)", "OpenAI")
def test_mistralai_chats_too(wide_url: str) -> None:
    mistral = Mistral(api_key="none", server_url=wide_url)
    answer = mistral.chat.complete(model=MODEL, messages=[{"role": "user", "content": "Add two numbers."}])
    assert answer.choices[0].message is not None
    assert answer.choices[0].message.content == ANSWER


@pytest.mark.client("openai (PyPI)", "DeepSeek")
@pytest.mark.parametrize("base", ["/beta", "/v1/beta"])
def test_deepseeks_completions_with_the_openai_package(url: str, base: str, fake_backend: FakeBackend) -> None:
    sdk = openai.OpenAI(base_url=url + base, api_key="none", max_retries=0)
    answer = sdk.completions.create(model=MODEL, prompt="def f(", suffix="return 1", max_tokens=200)
    assert answer.choices[0].text == ANSWER
    stream = sdk.completions.create(model=MODEL, prompt="def f(", suffix="return 1", max_tokens=200, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == ANSWER
    assert fake_backend.tokenizer.fim is not None
    assert all(request.prompts[0][0] == fake_backend.tokenizer.fim.prefix for request in fake_backend.requests)
