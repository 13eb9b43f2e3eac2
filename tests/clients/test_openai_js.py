"""npm's `openai` against a real server: completions, chat, streams, its own error classes, and aborts."""

from __future__ import annotations

import asyncio

import pytest

from deployments.errors import EngineUnavailableError, OverloadedError
from tests.support.fake_backend import ANSWER, MODEL, FakeBackend
from tests.support.json_process import ClientDriver, ClientError
from tests.support.waiting import wait_until

pytestmark = pytest.mark.client("openai (npm)", "OpenAI")

MESSAGES = [{"role": "user", "content": "größe? 漢字 🎉"}]


def test_complete(openai_js: ClientDriver, backend: FakeBackend, url: str) -> None:
    body = {
        "prompt": ["x = 1", "# 漢字"],
        "suffix": "\nend",
        "max_tokens": 200,
        "n": 2,
        "logprobs": 3,
        "stop": "return",
    }
    repository = {"name": "a/b", "files": [{"path": "tax.py", "content": "RATE = 7\n"}]}
    answer = openai_js.call("complete", url=f"{url}/v1", body={"model": MODEL, **body, "repository": repository})
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["choices"][0]["text"] == ANSWER.split("return")[0]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert len(answer["choices"][0]["logprobs"]["tokens"]) == len(answer["choices"][0]["logprobs"]["text_offset"])
    first, second = backend.requests[0].prompts
    assert "RATE = 7" in backend.tokenizer.decode(first)
    assert "# 漢字" in backend.tokenizer.decode(second)


def test_stream(openai_js: ClientDriver, url: str) -> None:
    body = {"model": MODEL, "prompt": "x", "max_tokens": 200, "stream_options": {"include_usage": True}}
    *chunks, last = openai_js.call("streamCompletion", url=f"{url}/v1", body=body)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == ANSWER
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert (last["choices"], last["usage"]["completion_tokens"] > 5) == ([], True)


def test_chat(openai_js: ClientDriver, backend: FakeBackend, url: str) -> None:
    body = {"model": MODEL, "messages": MESSAGES, "stop": ["漢"]}
    expected = ANSWER.split("漢")[0]
    whole = openai_js.call("chat", url=f"{url}/v1", body=body)
    assert whole["choices"][0]["message"]["content"] == expected
    assert MESSAGES[0]["content"] in backend.tokenizer.decode(backend.requests[0].prompts[0])
    chunks = openai_js.call("streamChat", url=f"{url}/v1", body=body)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == expected
    added_up = openai_js.call("accumulatedChat", url=f"{url}/v1", body=body)
    assert added_up["choices"][0]["message"]["content"] == expected
    assert added_up["choices"][0]["finish_reason"] == "stop"


def test_models(openai_js: ClientDriver, url: str) -> None:
    (model,) = openai_js.call("models", url=f"{url}/v1")
    assert model["id"] == MODEL
    assert openai_js.call("model", url=f"{url}/v1", id=MODEL) == model


@pytest.mark.client("openai (npm)", "DeepSeek")
def test_deepseeks_base_url(openai_js: ClientDriver, backend: FakeBackend, url: str) -> None:
    body = {"model": MODEL, "prompt": "def f(", "suffix": "return 1", "max_tokens": 200}
    assert openai_js.call("complete", url=f"{url}/beta", body=body)["choices"][0]["text"] == ANSWER
    chunks = openai_js.call("streamCompletion", url=f"{url}/v1/beta", body=body)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == ANSWER
    assert backend.requests[0].prompts == backend.requests[1].prompts


@pytest.mark.parametrize(
    ("call", "body", "name", "status", "code"),
    [
        ("complete", {"model": "gpt-4", "prompt": "x"}, "NotFoundError", 404, "model_not_found"),
        ("complete", {"prompt": "x", "max_tokens": 10**6}, "BadRequestError", 400, "context_length_exceeded"),
        ("streamCompletion", {"prompt": "x", "temperature": 9}, "BadRequestError", 400, "invalid_value"),
        ("chat", {"messages": []}, "BadRequestError", 400, "invalid_value"),
    ],
)
def test_refusals_are_its_own_errors(
    openai_js: ClientDriver,
    backend: FakeBackend,
    url: str,
    call: str,
    body: dict[str, object],
    name: str,
    status: int,
    code: str,
) -> None:
    with pytest.raises(ClientError) as refused:
        openai_js.call(call, url=f"{url}/v1", body={"model": MODEL, **body})
    fields = refused.value.fields
    assert (refused.value.name, fields["status"], fields["code"]) == (name, status, code)


def test_failures_are_its_own_errors(openai_js: ClientDriver, backend: FakeBackend, url: str) -> None:
    body = {"model": MODEL, "prompt": "x", "max_tokens": 200}
    for failure, name in (
        (OverloadedError("Full.", retry_after=1), "RateLimitError"),
        (EngineUnavailableError("Dead."), "InternalServerError"),
    ):
        backend.failure = failure
        for call in ("complete", "streamCompletion"):
            with pytest.raises(ClientError) as failed:
                openai_js.call(call, url=f"{url}/v1", body=body)
            assert failed.value.name == name
    backend.fail_at = 3
    with pytest.raises(ClientError, match=r"Dead\.") as failed:
        openai_js.call("streamCompletion", url=f"{url}/v1", body=body)
    assert failed.value.name == "APIError"


def test_it_comes_back_after_an_overload(openai_js: ClientDriver, backend: FakeBackend, url: str) -> None:
    backend.failure, backend.failures_left = OverloadedError("Full.", retry_after=0.01), 1
    body = {"model": MODEL, "prompt": "x", "max_tokens": 200}
    assert openai_js.call("complete", url=f"{url}/v1", retries=2, body=body)["choices"][0]["text"] == ANSWER
    assert len(backend.requests) == 2


def test_an_abort_reaches_the_backend(openai_js: ClientDriver, backend: FakeBackend, url: str) -> None:
    backend.gate = asyncio.Event()  # only the first token ever comes
    for number, (call, body) in enumerate(
        (("streamCompletion", {"prompt": "x"}), ("streamChat", {"messages": MESSAGES})), 1
    ):
        parts = openai_js.call(call, url=f"{url}/v1", abort_after=1, body={"model": MODEL, "max_tokens": 200, **body})
        assert len(parts) == 1
        wait_until(lambda: len(backend.closed) == number, "the request goes on without its client")  # noqa: B023
