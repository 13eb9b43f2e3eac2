"""One line for every request, written once, however the request ends; and no text in it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI

from deployments.cluster.node_logs import configure_logs
from deployments.errors import EngineUnavailableError, OverloadedError, ServeError
from deployments.http.observation import ObservationMiddleware
from deployments.http.request_record import RequestRecord, report
from deployments.ingress import create_app
from deployments.limits import ApiLimits
from deployments.protocol import Delta
from deployments.settings import Settings
from model.text.tokenizer import Tokenizer
from monitoring import logs
from monitoring.tracing import OFF
from tests.support.dialect_requests import whole
from tests.support.fake_backend import ANSWER, MODEL, FakeBackend
from tests.support.log_lines import LogLines, captured
from tests.support.waiting import wait_until

SECRET = "swordfish_one_two_three"

REQUESTS = whole(SECRET)


@pytest.fixture
def lines() -> Iterator[LogLines]:
    with captured() as lines:
        yield lines


def only(lines: LogLines) -> dict[str, Any]:
    (line,) = lines.requests()
    return line


@pytest.mark.parametrize(("dialect", "path", "body"), REQUESTS, ids=[path for _, path, _ in REQUESTS])
async def test_each_dialect_has_its_line_without_any_text(
    client: httpx.AsyncClient, fake_backend: FakeBackend, lines: LogLines, dialect: str, path: str, body: dict[str, Any]
) -> None:
    response = await client.post(path, json=body, headers={"x-request-id": "r-1", "user-agent": "editor/1"})
    assert response.status_code == 200, response.text
    line = only(lines)
    assert line["dialect"] == dialect
    assert (line["request_id"], line["team"], line["model"]) == ("r-1", "default", MODEL)
    assert (line["method"], line["path"], line["status"], line["outcome"]) == ("POST", path, 200, "ok")
    (request,) = fake_backend.requests
    assert line["prompt_tokens"] == len(request.prompts[0])
    assert line["cached_tokens"] == len(request.prompts[0]) // 16 * 16
    assert line["completion_tokens"] == min(request.params.max_tokens, len(fake_backend.tokens()) + 1)
    assert line["completion_ids"] == [request.request_id]
    assert 0 <= line["ttft_ms"] <= line["duration_ms"]
    assert line["stream"] == ("stream" in path or dialect == "ollama")
    assert line["user_agent"] == "editor/1"
    assert "level" in line
    assert SECRET not in lines.text
    assert ANSWER[:8] not in lines.text
    assert len(lines.all()) == 1


@pytest.mark.parametrize(("dialect", "path", "body"), REQUESTS, ids=[path for _, path, _ in REQUESTS])
async def test_no_text_of_a_request_that_fails_is_logged(
    client: httpx.AsyncClient, fake_backend: FakeBackend, lines: LogLines, dialect: str, path: str, body: dict[str, Any]
) -> None:
    fake_backend.failure = KeyError(f"{SECRET} and its surroundings")
    response = await client.post(path, json=body, headers={"x-request-id": "r-1"})
    assert response.status_code == 500
    wrong_types = {name: SECRET * 9 for name in body if name != "model"}
    for broken in (wrong_types, {**body, "temperature": SECRET, "options": SECRET}):
        await client.post(path, json=broken)
    failed, *_ = lines.requests()
    assert (failed["level"], failed["outcome"], failed["status"]) == ("error", "failed", 500)
    assert failed["error"]["code"] == "internal_error"
    assert "KeyError" in failed["exception"]
    assert "fake_backend.py" in failed["exception"]
    assert SECRET not in lines.text
    assert len(lines.requests()) == 3


FLOOD = f"{SECRET} " * 2000

FLOODS: list[tuple[str, str, dict[str, Any]]] = [
    *(("POST", path, {**body, "model": FLOOD}) for _, path, body in REQUESTS if path not in ("/infill",)),
    ("POST", "/api/show", {"model": FLOOD}),
    ("POST", "/v1/completions", {"prompt": "x", "logit_bias": {FLOOD: 1}}),
    ("POST", "/v1/completions", {"prompt": "x", "fim_mode": FLOOD}),
    ("POST", "/v1/completions", {"prompt": "x", "user": FLOOD}),
    ("POST", "/v1/completions", {"prompt": "x", "filename": FLOOD, "language": FLOOD, "session_id": FLOOD}),
    ("POST", "/v1/completions", {"prompt": "x", "repository": {"name": 1, "files": [{"path": FLOOD, FLOOD: FLOOD}]}}),
    ("POST", "/completion", {"prompt": "x", "logit_bias": [[FLOOD, 1]], "response_fields": FLOOD}),
    ("POST", "/v1/events", {"type": FLOOD, "completion_id": FLOOD, "choice_index": 0}),
    ("POST", f"/v1/events?select_kind={FLOOD}", {"type": "view", "completion_id": "x", "choice_index": 0}),
    ("GET", f"/v1/models/{FLOOD}", {}),
    ("GET", f"/{FLOOD}", {}),
    ("PUT", f"/models/{FLOOD}", {}),
]


@pytest.mark.parametrize(("method", "path", "body"), FLOODS, ids=[path[:30] for _, path, _ in FLOODS])
async def test_what_is_repeated_of_a_request_is_short(
    client: httpx.AsyncClient, lines: LogLines, method: str, path: str, body: dict[str, Any]
) -> None:
    """To the client, and in the log, where no text of a body is repeated at all."""
    response = await client.request(method, path, json=body or None)
    assert len(response.content) < 2500
    assert len(lines.text) < 2500
    if body:
        assert SECRET not in lines.text


async def test_header_fields_in_the_log_are_short(client: httpx.AsyncClient, lines: LogLines) -> None:
    names = ("x-request-id", "user-agent", "x-session-id", "authorization", "content-type", "traceparent", "tracestate")
    for name in names:
        await client.post("/v1/completions", json={"prompt": "x"}, headers={name: FLOOD[:30_000]})
    assert len(lines.text) < 1500 * len(names)
    assert lines.text.count(SECRET) < 20


async def test_the_client_is_told_the_id_that_the_log_has(
    client: httpx.AsyncClient, fake_backend: FakeBackend, lines: LogLines
) -> None:
    fake_backend.failure = RuntimeError("x")
    response = await client.post("/v1/completions", json={"prompt": "x"})
    identifier = only(lines)["request_id"]
    assert response.headers["x-request-id"] == identifier
    assert identifier in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("send", "status", "code", "level"),
    [
        ({"content": b"{"}, 400, "invalid_json", "info"),
        ({"json": {"prompt": "x", "max_tokens": "many"}}, 400, "invalid_value", "info"),
        ({"json": {"prompt": "x", "max_tokens": 9999}}, 400, "context_length_exceeded", "info"),
        ({"json": {"prompt": "x", "model": "gpt-4"}}, 404, "model_not_found", "info"),
        ({"data": {"a": "b"}}, 415, "unsupported_media_type", "info"),
        ({"json": {"prompt": "x" * 100_000}}, 413, "request_too_large", "info"),
    ],
)
async def test_what_is_refused_has_a_line(
    client: httpx.AsyncClient, lines: LogLines, send: dict[str, Any], status: int, code: str, level: str
) -> None:
    headers = {"content-type": "application/json"} if "content" in send else {}
    assert (await client.post("/v1/completions", headers=headers, **send)).status_code == status
    line = only(lines)
    assert (line["status"], line["outcome"], line["level"]) == (status, "refused", level)
    assert line["error"]["code"] == code
    assert "prompt_tokens" not in line


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("GET", "/v1/completions", 405)])
async def test_wrong_addresses_have_a_line(
    client: httpx.AsyncClient, lines: LogLines, method: str, path: str, status: int
) -> None:
    response = await client.request(method, path)
    line = only(lines)
    assert (response.status_code, line["status"], line["outcome"]) == (status, status, "refused")
    assert line["error"]["code"] == response.json()["error"]["code"]


@pytest.mark.parametrize(
    ("failure", "status", "outcome", "level"),
    [
        (OverloadedError("The queue is full.", retry_after=3), 429, "shed", "warning"),
        (EngineUnavailableError("The engine stopped."), 503, "failed", "error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_shedding_is_a_warning_and_a_failure_an_error(
    client: httpx.AsyncClient,
    fake_backend: FakeBackend,
    lines: LogLines,
    failure: ServeError,
    status: int,
    outcome: str,
    level: str,
    stream: bool,
) -> None:
    fake_backend.failure = failure
    await client.post("/v1/completions", json={"prompt": "x", "stream": stream})
    line = only(lines)
    assert (line["status"], line["outcome"], line["level"]) == (status, outcome, level)
    assert line["error"]["message"] == failure.message
    assert line["prompt_tokens"] == 1
    assert "exception" not in line


async def test_a_stream_that_fails_midway_failed_whatever_its_status(
    client: httpx.AsyncClient, fake_backend: FakeBackend, lines: LogLines
) -> None:
    fake_backend.failure, fake_backend.fail_at = EngineUnavailableError("The engine stopped."), 3
    response = await client.post("/v1/completions", json={"prompt": "x", "stream": True})
    assert '"error"' in response.text
    line = only(lines)
    assert (line["status"], line["outcome"], line["completion_tokens"]) == (200, "failed", 3)
    assert line["level"] == "error"
    assert line["error"]["code"] == "engine_unavailable"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_has_a_line(url: str, fake_backend: FakeBackend, lines: LogLines, stream: bool) -> None:
    fake_backend.gate = asyncio.Event()
    body = {"prompt": "x", "stream": stream, "max_tokens": 50}
    if stream:
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as response:
            next(response.iter_lines())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/completions", json=body, timeout=httpx.Timeout(30, read=0.5))
    wait_until(lambda: bool(lines.requests()), "no line is written")
    line = only(lines)
    assert (line["outcome"], line["level"]) == ("aborted", "info")
    assert line.get("stream") == (True if stream else None)
    assert line.get("status") == (200 if stream else None)
    assert line.get("completion_tokens") == (1 if stream else None)


@pytest.mark.parametrize("parts", [0, 1, 3])
async def test_a_client_that_leaves_while_its_body_is_read(app: FastAPI, lines: LogLines, parts: int) -> None:
    """Serve says it by whatever error ends the call that reads the body."""
    received = 0

    async def receive() -> dict[str, Any]:
        nonlocal received
        received += 1
        if received > parts:
            raise RuntimeError("the task was cancelled")
        return {"type": "http.request", "body": b'{"prompt": ', "more_body": True}

    async def send(message: Any) -> None:
        raise AssertionError("nobody is there")

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "query_string": b""}
    await app(scope, receive, send)
    line = only(lines)
    assert (line["outcome"], line["level"], line.get("status")) == ("aborted", "info", None)
    assert "error" not in line
    assert "exception" not in line


def test_a_client_that_leaves_while_it_is_told_that_its_body_is_too_large(url: str, lines: LogLines) -> None:
    connection = socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=30)
    connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 999999\r\n\r\n" + b"x" * 1000)
    assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    connection.close()
    wait_until(lambda: bool(lines.requests()), "no line is written")
    line = only(lines)
    assert (line["outcome"], line["status"], line["error"]["code"]) == ("refused", 413, "request_too_large")
    assert "exception" not in line


async def test_what_fails_behind_the_answer_is_told_with_its_traceback(lines: LogLines) -> None:
    """Where nothing is left that could answer with it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("deep down")

    async def nobody(*_: Any) -> Any:
        raise AssertionError("nobody is asked or answered")

    scope = {"type": "http", "method": "POST", "path": "/x", "headers": [], "state": {}}
    with pytest.raises(KeyError):
        await ObservationMiddleware(app, OFF, lambda: None)(scope, nobody, nobody)
    assert 'raise KeyError("deep down")' in only(lines)["exception"]


def test_what_fails_outside_of_any_request_is_told_of_all_the_same(lines: LogLines) -> None:
    """With the id that its client was given, and where it happened."""
    try:
        raise ZeroDivisionError("nobody expected this")
    except ZeroDivisionError as error:
        report(error, "r-1")
    report(OverloadedError("full"), "r-2")
    (line,) = lines.all()
    assert line["level"] == "error"
    assert "r-1" in line["message"]
    assert "ZeroDivisionError" in lines.text


async def test_superseded_is_an_outcome_of_its_own() -> None:
    record = RequestRecord("r", "POST", "/v1/completions", sent_all=True)
    record.saw([Delta(index=0, token_ids=[1], finish_reason="stop", ended_by="superseded")], True)
    assert record.outcome == "superseded"
    assert record.fields()["ended_by"] == ["superseded"]


async def test_several_completions_are_summed(client: httpx.AsyncClient, lines: LogLines) -> None:
    body = {"prompt": ["a", "b"], "n": 2, "max_tokens": 3, "stream": True}
    await client.post("/v1/completions", json=body)
    line = only(lines)
    assert (line["sequences"], line["prompt_tokens"], line["completion_tokens"]) == (4, 2, 12)
    assert line["finish_reasons"] == ["length"]


async def test_probes_are_seen_when_they_fail_or_for_debugging(
    client: httpx.AsyncClient, fake_backend: FakeBackend
) -> None:
    with captured() as lines:
        await client.get("/health")
        assert lines.requests() == []
        fake_backend.report = type(fake_backend.report)(healthy=False, reason="The engine hangs.")
        await client.get("/health")
        line = only(lines)
        assert (line["outcome"], line["level"], line["dialect"]) == ("failed", "warning", "operations")
    with captured("debug") as lines:
        await client.get("/version")
        assert only(lines)["level"] == "debug"


async def test_an_id_that_cannot_be_used_is_noted_beside_ours(client: httpx.AsyncClient, lines: LogLines) -> None:
    response = await client.post("/v1/completions", json={"prompt": "x"}, headers={"x-request-id": "no good"})
    line = only(lines)
    assert line["given_request_id"] == "no good"
    assert line["request_id"] == response.headers["x-request-id"]


async def test_text_is_logged_where_that_was_asked_for(fake_backend: FakeBackend, tokenizer: Tokenizer) -> None:
    app: FastAPI = create_app(backend=fake_backend, tokenizer=tokenizer, limits=ApiLimits(), log_text=True)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    with captured() as lines:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            response = await client.post("/v1/completions", json={"prompt": SECRET, "max_tokens": 50})
            await client.post("/v1/completions", json={"prompt": "x", "temperature": SECRET})
    ok, refused = lines.requests()
    assert ok["prompts"] == [SECRET]
    assert ok["texts"] == [response.json()["choices"][0]["text"]]
    assert SECRET in refused["error"]["message"]


def test_a_log_file_that_cannot_be_opened_stops_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loggers = [logging.getLogger(name) for name in (None, *logs.OWN_LOGGERS)]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    try:
        configure_logs(Settings(log_file=tmp_path / "missing" / "log"), process="engine")
        logs.event("engine.ready")
        logs.flush()
    finally:
        for logger, level, handlers in before:
            logger.setLevel(level)
            logger.handlers[:] = handlers
    lines = [line for text in capsys.readouterr().out.splitlines() if (line := logs.parse(text))]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("log_file.unusable", "warning"),
        ("engine.ready", "info"),
    ]
