"""npm's `@continuedev/openai-adapters`, which is what Continue sends its requests with, against a real server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deployments.errors import OverloadedError
from tests.clients.configured import KEY, models
from tests.clients.conftest import starts
from tests.support.fake_backend import ANSWER, MODEL, FakeBackend
from tests.support.json_process import ClientDriver, ClientError
from tests.support.waiting import wait_until

CONTINUE = "@continuedev/openai-adapters (npm)"
MESSAGES = [{"role": "user", "content": "größe? 漢字 🎉"}]
STOP = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>", "<|endoftext|>", "</fim_middle>", "</code>"]
STOPS = [*STOP, "/src/", "#- coding: utf-8", "```"]
"""What its autocomplete adds for StarCoder: `AutocompleteTemplate.ts` and `getStopTokens.ts` of Continue's core."""


def gap(continue_js: ClientDriver, provider: str, url: str, key: str = "unused", **body: Any) -> str:
    request = {"model": MODEL, "prompt": "def 漢(", "suffix": "\nreturn 1", "max_tokens": 200, "stop": STOPS, **body}
    chunks = continue_js.call("streamFim", provider=provider, url=url, key=key, body=request)
    return "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)


@pytest.mark.client(CONTINUE, "Mistral")
def test_gaps_as_documented(continue_js: ClientDriver, backend: FakeBackend, url: str, keys: list[str | None]) -> None:
    model = models("continue", url)["mistral"]
    assert model["roles"] == ["autocomplete"]
    length = model["defaultCompletionOptions"]["maxTokens"]
    where = {"provider": "mistral", "url": f"{model['apiBase']}/", "key": model["apiKey"]}
    assert starts(gap(continue_js, **where, model=model["model"], max_tokens=length), ANSWER)
    assert backend.requests[0].params.max_tokens == length
    assert keys == [KEY]


@pytest.mark.client(CONTINUE, "OpenAI")
def test_chat_as_documented(continue_js: ClientDriver, backend: FakeBackend, url: str, keys: list[str | None]) -> None:
    """`compileChatMessages` fills a window less 2 % and an answer of 1,000 tokens at most, whatever it asks for."""
    model = models("continue", url)["openai"]
    assert model["roles"] == ["chat"]
    options = model["defaultCompletionOptions"]
    window, length = options["contextLength"], options["maxTokens"]
    assert window + length <= backend.window
    body = {"model": model["model"], "messages": MESSAGES, "max_tokens": length, "stream": True}
    where = {"provider": "openai", "url": f"{model['apiBase']}/", "key": model["apiKey"]}
    chunks = continue_js.call("streamChat", **where, body=body)
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks if chunk["choices"]) == ANSWER
    assert backend.requests[0].params.max_tokens == length
    assert keys == [KEY]


@pytest.mark.client(CONTINUE, "Mistral")
def test_mistrals_gaps(continue_js: ClientDriver, backend: FakeBackend, url: str) -> None:
    assert starts(gap(continue_js, "mistral", f"{url}/v1/"), ANSWER)
    (request,) = backend.requests
    assert backend.tokenizer.decode(request.prompts[0], skip_special=False) == (
        "<fim_prefix><fim_suffix>\nreturn 1<fim_middle>def 漢("
    )
    assert request.stop == tuple(STOPS)
    assert gap(continue_js, "mistral", f"{url}/v1/", stop=["return"]) == ANSWER.split("return")[0]


@pytest.mark.client(CONTINUE, "DeepSeek")
def test_deepseeks_gaps(continue_js: ClientDriver, backend: FakeBackend, url: str) -> None:
    assert gap(continue_js, "deepseek", f"{url}/") == ANSWER


@pytest.mark.client(CONTINUE, "OpenAI")
@pytest.mark.parametrize("provider", ["openai", "vllm", "ollama", "llama.cpp"])
def test_openais_routes(continue_js: ClientDriver, backend: FakeBackend, url: str, provider: str) -> None:
    where = {"provider": provider, "url": f"{url}/v1/"}
    body = {"model": MODEL, "prompt": "# 漢字", "max_tokens": 200}
    assert continue_js.call("complete", **where, body=body)["choices"][0]["text"] == ANSWER
    chunks = continue_js.call("streamCompletion", **where, body=body)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == ANSWER
    talk = {"model": MODEL, "messages": MESSAGES}
    assert continue_js.call("chat", **where, body=talk)["choices"][0]["message"]["content"] == ANSWER
    *chunks, last = continue_js.call("streamChat", **where, body=talk)
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == ANSWER
    assert last["usage"]["completion_tokens"] > 5
    assert [model["id"] for model in continue_js.call("models", **where)] == [MODEL]


@pytest.mark.client(CONTINUE, "Mistral")
def test_a_failure_says_what_the_server_said(continue_js: ClientDriver, backend: FakeBackend, url: str) -> None:
    with pytest.raises(ClientError, match="model_not_found"):
        gap(continue_js, "mistral", f"{url}/v1/", model="codestral-latest")
    backend.failure = OverloadedError("Every place is taken.")
    with pytest.raises(ClientError, match="Every place is taken"):
        gap(continue_js, "mistral", f"{url}/v1/")


@pytest.mark.client(CONTINUE, "OpenAI")
def test_a_failure_has_openais_class(continue_js: ClientDriver, backend: FakeBackend, url: str) -> None:
    with pytest.raises(ClientError) as refused:
        continue_js.call("chat", provider="openai", url=f"{url}/v1/", body={"model": "gpt-4", "messages": MESSAGES})
    assert (refused.value.name, refused.value.fields["code"]) == ("NotFoundError", "model_not_found")


@pytest.mark.parametrize(
    ("call", "provider", "path", "body"),
    [
        pytest.param(
            *("streamFim", "mistral", "/v1/", {"prompt": "x", "suffix": "y"}),
            marks=pytest.mark.client(CONTINUE, "Mistral"),
        ),
        pytest.param(
            *("streamFim", "deepseek", "/", {"prompt": "x", "suffix": "y"}),
            marks=pytest.mark.client(CONTINUE, "DeepSeek"),
        ),
        pytest.param(
            *("streamChat", "openai", "/v1/", {"messages": MESSAGES}), marks=pytest.mark.client(CONTINUE, "OpenAI")
        ),
    ],
)
def test_an_abort_reaches_the_backend(
    continue_js: ClientDriver, backend: FakeBackend, url: str, call: str, provider: str, path: str, body: dict[str, Any]
) -> None:
    """As when somebody types on: Continue aborts the request of the keystroke before."""
    backend.gate = asyncio.Event()  # only the first token ever comes
    request = {"model": MODEL, "max_tokens": 200, **body}
    try:
        parts = continue_js.call(call, provider=provider, url=url + path, body=request, abort_after=1)
        assert len(parts) == 1
    except ClientError as error:
        assert "abort" in str(error).lower()  # noqa: PT017
    wait_until(lambda: len(backend.closed) == 1, "the request goes on without its client")
