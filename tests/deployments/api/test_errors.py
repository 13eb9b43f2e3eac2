"""Bad input and failing backends: always OpenAI's error object, with the right status and a readable message."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from deployments.errors import (
    AuthUnavailableError,
    ContextLengthError,
    EngineOutOfMemoryError,
    EngineUnavailableError,
    ForbiddenError,
    InternalError,
    InvalidRequestError,
    MeteringUnavailableError,
    OverloadedError,
    QuotaError,
    RateLimitedError,
    ServeError,
    UnauthorizedError,
    unwrap,
)
from deployments.http.middleware import error_response
from deployments.ingress import create_app, refusal_reason
from model.request import Output
from model.text.tokenizer import Tokenizer
from monitoring.labels import REJECTION_REASONS
from tests.support.fake_backend import WINDOW, FakeBackend

JSON = {"content-type": "application/json"}


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert body["error"]["message"]
    return body["error"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "prompt", "`prompt` is required"),
        ({"prompt": None}, "prompt", "`prompt` is required"),
        ({"prompt": ""}, "prompt", "is empty"),
        ({"prompt": []}, "prompt", "is empty"),
        ({"prompt": ["a", ""]}, "prompt", "is empty"),
        ({"prompt": [[1], []]}, "prompt", "is empty"),
        ({"prompt": 5}, "prompt", "must be a string"),
        ({"prompt": [True, 1]}, "prompt", "must be a string"),
        ({"prompt": ["a", 1]}, "prompt", "must be a string"),
        ({"prompt": [1.5]}, "prompt", "must be a string"),
        ({"prompt": {"a": 1}}, "prompt", "must be a string"),
        ({"prompt": [0, -1]}, "prompt", "token id -1 is outside the vocabulary"),
        ({"prompt": [[5], [10**9]]}, "prompt", "token id 1000000000 is outside the vocabulary"),
        ({"prompt": [1 << 63]}, "prompt", "must be a string"),
        ({"prompt": [1, 2], "suffix": "x"}, "prompt", "need the prompt as text"),
        ({"prompt": "x", "suffix": 5}, "suffix", "valid string (got 5)"),
        ({"prompt": "x", "suffix": "y", "echo": True}, None, "echo cannot be combined"),
        ({"prompt": "x", "fim_mode": "mps"}, "fim_mode", "'psm'"),
        ({"prompt": "x", "max_tokens": -1}, "max_tokens", "greater than or equal to 0 (got -1)"),
        ({"prompt": "x", "max_tokens": 10**15}, "max_tokens", "less than or equal to"),
        ({"prompt": "x", "max_tokens": True}, "max_tokens", "valid integer (got True)"),
        ({"prompt": "x", "max_tokens": "16"}, "max_tokens", "valid integer (got '16')"),
        ({"prompt": "x", "max_tokens": 1.5}, "max_tokens", "valid integer"),
        ({"prompt": "x", "n": 0}, "n", "greater than or equal to 1"),
        ({"prompt": "x", "n": 100_000}, None, "one request may ask for 128"),
        ({"prompt": ["x"] * 65, "n": 2}, None, "are 130 completions"),
        ({"prompt": "x", "best_of": 129}, None, "one request may ask for 128"),
        ({"prompt": "x", "best_of": -3}, "best_of", "greater than or equal to 1"),
        ({"prompt": "x", "n": 3, "best_of": 2}, None, "best_of (2) must be at least n (3)"),
        ({"prompt": "x", "best_of": 2, "stream": True}, None, "best_of cannot be more than n in a stream"),
        ({"prompt": "x", "stream": "yes"}, "stream", "valid boolean"),
        ({"prompt": "x", "stream_options": {}}, None, "only allowed with stream"),
        ({"prompt": "x", "temperature": -0.1}, "temperature", "greater than or equal to 0"),
        ({"prompt": "x", "temperature": "hot"}, "temperature", "valid number (got 'hot')"),
        ({"prompt": "x", "top_p": 1.1}, "top_p", "less than or equal to 1"),
        ({"prompt": "x", "top_k": -2}, "top_k", "greater than or equal to -1"),
        ({"prompt": "x", "min_p": 2}, "min_p", "less than or equal to 1"),
        ({"prompt": "x", "repetition_penalty": 0}, "repetition_penalty", "greater than or equal to 0.01"),
        ({"prompt": "x", "frequency_penalty": 2.5}, "frequency_penalty", "less than or equal to 2"),
        ({"prompt": "x", "seed": 1 << 63}, "seed", "less than or equal to"),
        ({"prompt": "x", "logprobs": 21}, "logprobs", "at most 20 are allowed"),
        ({"prompt": "x", "logprobs": True}, "logprobs", "valid integer"),
        ({"prompt": "x", "stop": [f"s{i}" for i in range(1000)]}, "stop", "has 1000 entries; at most 16"),
        ({"prompt": "x", "stop": ""}, "stop", "must not hold an empty string"),
        ({"prompt": "x", "stop": [1]}, "stop", "must be a string or a list of strings"),
        ({"prompt": "x", "stop": "s" * 2000}, "stop", "longer than 1024 characters"),
        ({"prompt": "x", "stop_token_ids": [-5]}, "stop_token_ids", "outside the vocabulary"),
        ({"prompt": "x", "stop_token_ids": [1] * 17}, "stop_token_ids", "at most 16"),
        ({"prompt": "x", "min_tokens": 17}, "min_tokens", "17 is more than max_tokens (16)"),
        ({"prompt": "x", "logit_bias": {"x": 1}}, "logit_bias", "keys must be token ids, not 'x'"),
        ({"prompt": "x", "logit_bias": {"1": 101}}, "logit_bias", "must be a number from -100 to 100"),
        ({"prompt": "x", "logit_bias": {"999999": 1}}, "logit_bias", "outside the vocabulary"),
        ({"prompt": "x", "logit_bias": []}, "logit_bias", "must be an object"),
        ({"prompt": "x", "priority": 1.5}, "priority", "valid integer"),
        ({"prompt": "x", "truncate_prompt_tokens": 0}, None, "must be -1 or at least 1"),
        ({"prompt": "x", "suffix": "y", "truncate_prompt_tokens": 3}, "suffix", "a window of 3 tokens"),
        ({"prompt": "x", "repository": {"files": [{"path": "a"}]}}, "repository.files.0.content", "is required"),
    ],
)
async def test_a_wrong_field_is_named(
    client: httpx.AsyncClient, fake_backend: FakeBackend, fields: dict[str, Any], param: str | None, words: str
) -> None:
    error = error_of(await client.post("/v1/completions", json=fields), 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert words in error["message"]
    assert fake_backend.requests == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no body"),
        (b"{", "not valid JSON"),
        (b'{"prompt": "x",}', "trailing comma"),
        (b"[]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"prompt": "x", "temperature": NaN}', "not valid JSON"),
        (b'{"prompt": "x", "temperature": Infinity}', "not valid JSON"),
        (b'{"prompt": "x", "temperature": 1e999}', "out of range"),
        (b'{"prompt": "x", "max_tokens": 1' + b"0" * 5000 + b"}", "out of range"),
        (b'{"prompt": "\xff\xfe"}', "not valid UTF-8: invalid start byte at byte"),
        (b'{"prompt": "\xed\xa0\x80"}', "not valid UTF-8"),
        (b'{"prompt": "\\ud800"}', "half of a surrogate pair"),
        (b'{"prompt": "x", "stop": ["\\udc00 "]}', "half of a surrogate pair"),
        (b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "limit|nested too deeply"),
        (b'{"a":' * 9_000 + b"1" + b"}" * 9_000, "nested too deeply"),
    ],
)
async def test_a_broken_body(client: httpx.AsyncClient, body: bytes, words: str) -> None:
    response = await client.post("/v1/completions", content=body, headers=JSON)
    error = error_of(response, 413 if len(body) > 100_000 else 400)
    assert any(word in error["message"] for word in words.split("|"))


async def test_a_body_of_another_type(client: httpx.AsyncClient) -> None:
    for headers in ({"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}, {}):
        response = await client.post("/v1/completions", content=b'{"prompt": "x"}', headers=headers)
        assert error_of(response, 415)["code"] == "unsupported_media_type"
    headers = {"content-type": "application/vnd.api+json; charset=utf-8"}
    response = await client.post("/v1/completions", content=b'{"prompt": "x"}', headers=headers)
    assert response.status_code == 200


async def test_duplicate_keys_take_the_last(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    body = b'{"prompt": "x", "max_tokens": 3, "max_tokens": 4}'
    assert (await client.post("/v1/completions", content=body, headers=JSON)).status_code == 200
    assert fake_backend.requests[0].params.max_tokens == 4


async def test_an_integer_may_be_written_with_a_point(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    body = b'{"prompt": [5.0, 1e1], "max_tokens": 4.0, "temperature": 1.0, "top_p": 5e-1}'
    assert (await client.post("/v1/completions", content=body, headers=JSON)).status_code == 200
    (request,) = fake_backend.requests
    assert request.prompts == [[5, 10]]
    assert [type(token_id) for token_id in request.prompts[0]] == [int, int]
    assert (request.params.max_tokens, request.params.temperature, request.params.top_p) == (4, 1.0, 0.5)


async def test_an_unknown_model(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/completions", json={"model": "gpt-9", "prompt": "x"})
    assert error_of(response, 404)["code"] == "model_not_found"


async def test_the_window_is_a_limit(client: httpx.AsyncClient, tokenizer: Tokenizer) -> None:
    ids = [tokenizer.encode("x")[0]]
    refused: list[dict[str, Any]] = [
        {"prompt": ids * WINDOW, "max_tokens": 1},
        {"prompt": ids * WINDOW, "max_tokens": 0},
        {"prompt": ids * (WINDOW - 9), "max_tokens": 10},
        {"prompt": "x", "max_tokens": WINDOW},
        {"prompt": "word " * 5000},
        {"prompt": "x", "suffix": "word " * 5000},
        {"prompt": ["x", "word " * 5000]},
        {"prompt": "x", "max_tokens": 2_000_000_000},
    ]
    for body in refused:
        error = error_of(await client.post("/v1/completions", json=body), 400)
        assert error["code"] == "context_length_exceeded"
        assert str(WINDOW) in error["message"]
    for body in ({"prompt": ids * (WINDOW - 10), "max_tokens": 10}, {"prompt": ids * (WINDOW - 1), "max_tokens": 0}):
        assert (await client.post("/v1/completions", json=body)).status_code == 200


async def test_a_body_over_the_limit_is_refused_before_it_is_read(
    client: httpx.AsyncClient, fake_backend: FakeBackend
) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 10_000
            yield b"x" * 10_000

    response = await client.post("/v1/completions", content=b"x" * 100_001, headers=JSON)
    assert error_of(response, 413)["code"] == "request_too_large"
    response = await client.post("/v1/completions", content=chunks(), headers=JSON)
    assert error_of(response, 413)["code"] == "request_too_large"
    assert fake_backend.requests == []


async def test_reading_stops_at_the_limit(app: FastAPI) -> None:
    """Without a Content-Length the answer is written before the rest of the body is asked for."""
    pulled, answered = 0, asyncio.Event()
    pulled_at_answer = None

    async def receive() -> dict[str, Any]:
        nonlocal pulled
        pulled += 1
        return {"type": "http.request", "body": b"x" * 10_000, "more_body": pulled < 1000}

    async def send(message: Any) -> None:
        nonlocal pulled_at_answer
        if message["type"] == "http.response.start":
            assert message["status"] == 413
            pulled_at_answer = pulled
            answered.set()

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "query_string": b""}
    await app(scope, receive, send)
    assert answered.is_set()
    assert pulled_at_answer == 11


async def test_no_such_path_or_method(client: httpx.AsyncClient) -> None:
    assert error_of(await client.get("/nowhere"), 404)["code"] == "not_found"
    response = await client.get("/v1/completions")
    assert error_of(response, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"] == "POST"
    response = await client.post("/version")
    assert error_of(response, 405)["message"] == "'/version' takes GET, HEAD only; /docs says more."
    assert response.headers["allow"] == "GET, HEAD"


async def test_a_path_takes_what_any_of_its_routes_takes(client: httpx.AsyncClient) -> None:
    for path in ("/v1/organization/projects", "/"):
        response = await client.put(path)
        assert response.status_code == 405
        assert f"'{path}' takes GET, HEAD, POST only; /docs says more." in response.text
        assert response.headers["allow"] == "GET, HEAD, POST"


async def test_request_ids_are_echoed_when_they_are_harmless(client: httpx.AsyncClient) -> None:
    for path in ("/version", "/nowhere"):
        response = await client.get(path, headers={"x-request-id": "req-42.a"})
        assert response.headers["x-request-id"] == "req-42.a"
        for bad in ("x" * 129, "a b", "ä".encode()):
            response = await client.get(path, headers={"x-request-id": bad})
            assert len(response.headers["x-request-id"]) == 32


async def test_one_request_id_sent_twice_does_not_collide(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    for _ in range(2):
        await client.post("/v1/completions", json={"prompt": "x"}, headers={"x-request-id": "same"})
    first, second = fake_backend.requests
    assert first.request_id != second.request_id


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_backend_that_refuses(client: httpx.AsyncClient, fake_backend: FakeBackend, streaming: bool) -> None:
    """Before the first token a stream has a status of its own, and clients can retry by it."""
    cases: list[tuple[Exception, int, str, str | None]] = [
        (OverloadedError("The queue is full.", retry_after=2.4), 429, "overloaded", "3"),
        (EngineUnavailableError("draining", retry_after=0.1), 503, "engine_unavailable", "1"),
        (EngineOutOfMemoryError("No memory.", retry_after=5), 503, "engine_out_of_memory", "5"),
        (RuntimeError("secret detail"), 500, "internal_error", None),
    ]
    for failure, status, code, retry_after in cases:
        fake_backend.failure = failure
        response = await client.post("/v1/completions", json={"prompt": "x", "stream": streaming})
        error = error_of(response, status)
        assert error["code"] == code
        assert "secret" not in error["message"]
        assert response.headers.get("retry-after") == retry_after
    assert len(fake_backend.closed) == len(cases)


async def test_a_failure_in_a_stream_is_an_event(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    fake_backend.failure, fake_backend.fail_at = EngineUnavailableError("A rank died."), 3
    response = await client.post("/v1/completions", json={"prompt": "x", "stream": True, "max_tokens": 10})
    assert response.status_code == 200
    *chunks, error, rest = response.text.split("\n\n")
    assert rest == ""
    assert len(chunks) >= 2
    assert json.loads(error.removeprefix("data: ")) == {
        "error": {
            "message": "A rank died.",
            "type": "server_error",
            "param": None,
            "code": "engine_unavailable",
        }
    }
    assert len(fake_backend.closed) == 1


async def test_a_request_the_engine_gives_up_is_an_error(
    client: httpx.AsyncClient, fake_backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(*_: Any) -> Output:
        return Output("x", finish_reason="abort")

    monkeypatch.setattr(fake_backend, "output", give_up)
    for streaming in (False, True):
        response = await client.post("/v1/completions", json={"prompt": "x", "stream": streaming})
        assert error_of(response, 503)["code"] == "engine_unavailable"


class _RayTaskError(Exception):
    """Ray's wrapper: an instance of the user's class by inheritance, with the real one in `.cause`."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class _WrappedError(_RayTaskError, OverloadedError):
    pass


def test_errors_survive_pickling_and_wrapping() -> None:
    error = ContextLengthError("too long", param="prompt", retry_after=1.5, headers={"x-test": "1"})
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is ContextLengthError
    assert (copy.body(), copy.status, copy.retry_after, str(copy)) == (error.body(), 400, 1.5, "too long")
    assert copy.response_headers() == {"retry-after": "2", "x-test": "1"}
    overloaded = OverloadedError("full", retry_after=3)
    assert unwrap(_WrappedError(overloaded)) is overloaded
    assert unwrap(_RayTaskError(_RayTaskError(overloaded))) is overloaded
    assert type(unwrap(_RayTaskError(ValueError("x")))) is InternalError
    assert type(unwrap(TimeoutError())) is EngineUnavailableError
    assert isinstance(unwrap(KeyError("x")), ServeError)


async def test_the_request_id_is_left_to_a_proxy_that_answers_it(
    fake_backend: FakeBackend, tokenizer: Tokenizer
) -> None:
    app = create_app(backend=fake_backend, tokenizer=tokenizer, answer_request_id=False)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        response = await client.get("/version", headers={"x-request-id": "abc"})
    assert "x-request-id" not in response.headers


@pytest.mark.parametrize(
    ("error", "status", "code", "headers", "reason"),
    [
        (UnauthorizedError("x"), 401, "invalid_api_key", {"www-authenticate": "Bearer"}, "unauthorized"),
        (ForbiddenError("x"), 403, "insufficient_permissions", {}, "forbidden"),
        (
            RateLimitedError("x", type="tokens", retry_after=0.0123),
            429,
            "rate_limit_exceeded",
            {"retry-after": "1", "retry-after-ms": "13"},
            "rate_limited",
        ),
        (QuotaError("x"), 429, "insufficient_quota", {"x-should-retry": "false"}, "quota"),
        (OverloadedError("x", retry_after=1), 429, "overloaded", {"retry-after": "1"}, "queue_full"),
        (AuthUnavailableError("x"), 503, "auth_unavailable", {}, "unavailable"),
        (MeteringUnavailableError("x"), 503, "metering_unavailable", {}, "unavailable"),
        (InvalidRequestError("x", status=403), 403, None, {}, "invalid"),
    ],
)
def test_what_answers_and_counts_say_of_keys_limits_and_budgets(
    error: ServeError, status: int, code: str | None, headers: dict[str, str], reason: str
) -> None:
    response = error_response(error)
    assert response.status_code == status
    assert json.loads(bytes(response.body))["error"]["code"] == code
    always = {"content-length", "content-type"}
    assert {name: value for name, value in response.headers.items() if name not in always} == headers
    assert refusal_reason(error) == reason
    assert reason in REJECTION_REASONS
