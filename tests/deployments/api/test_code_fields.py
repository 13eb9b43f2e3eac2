"""Which dialects end completions by rules, what names a session, and how an answer that a rule ended looks."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from deployments.protocol import Delta, GenerationRequest
from tests.support.fake_backend import ANSWER, MODEL, FakeBackend

PREFIX, SUFFIX = "def f(a):\n    x = ", "\n    return x\n"
TEMPLATE = f"<fim_prefix>{PREFIX}<fim_suffix>{SUFFIX}<fim_middle>"
SEGMENTS = {"prefix": PREFIX, "suffix": SUFFIX, "filepath": "a.py"}
EDITORS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/fim/completions", {"prompt": PREFIX, "suffix": SUFFIX}),
    ("/infill", {"input_prefix": "def f(a):\n", "prompt": "    x = ", "input_suffix": SUFFIX}),
    ("/api/generate", {"model": MODEL, "prompt": PREFIX, "suffix": SUFFIX, "stream": False}),
    ("/v1/completions", {"segments": SEGMENTS}),
]
RAW: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": PREFIX, "suffix": SUFFIX}),
    ("/beta/completions", {"prompt": PREFIX, "suffix": SUFFIX}),
    ("/completion", {"prompt": TEMPLATE}),
    ("/generate", {"inputs": TEMPLATE}),
    ("/api/generate", {"model": MODEL, "prompt": TEMPLATE, "stream": False}),
]
NESTED = {"/generate": "parameters", "/generate_stream": "parameters", "/api/generate": "options"}


def with_fields(path: str, body: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The body with fields where the dialect has its options."""
    return {**body, NESTED[path]: fields} if path in NESTED else {**body, **fields}


async def asked(
    client: httpx.AsyncClient, backend: FakeBackend, path: str, body: Any, **headers: str
) -> GenerationRequest:
    response = await client.post(path, json=body, headers=headers)
    assert response.status_code == 200, response.text
    return backend.requests[-1]


@pytest.mark.parametrize(("path", "body"), EDITORS)
async def test_editors_get_sensible_ends(
    client: httpx.AsyncClient, fake_backend: FakeBackend, path: str, body: Any
) -> None:
    rules = (await asked(client, fake_backend, path, body)).rules
    assert rules is not None
    assert (rules.mode, rules.language) == ("auto", "python")
    assert rules.settings == {"suffix": True, "repetition": True, "special_token": True}
    assert (rules.prefixes, rules.suffixes) == ((PREFIX,), (SUFFIX,))
    raw = await asked(client, fake_backend, path, with_fields(path, body, completion_mode="raw"))
    assert raw.rules is None


@pytest.mark.parametrize(("path", "body"), [*EDITORS, *RAW])
async def test_special_tokens_are_drawn_only_where_the_request_allows_them(
    client: httpx.AsyncClient, fake_backend: FakeBackend, path: str, body: Any
) -> None:
    for fields, expected in (
        ({}, (True, False)),
        ({"completion_mode": "auto"}, (True, False)),
        ({"skip_special_tokens": False}, (False, True)),
    ):
        request = await asked(client, fake_backend, path, with_fields(path, body, **fields))
        assert (request.skip_special, request.special_tokens) == expected


@pytest.mark.parametrize(("path", "body"), RAW)
async def test_raw_routes_leave_the_text_alone(
    client: httpx.AsyncClient, fake_backend: FakeBackend, path: str, body: Any
) -> None:
    request = await asked(client, fake_backend, path, body)
    assert (request.rules, request.session, request.max_time_ms) == (None, None, None)
    fields = {
        "completion_mode": "block",
        "language": "java",
        "max_time_ms": 70,
        "trim_suffix": False,
        "session_id": "s",
    }
    request = await asked(client, fake_backend, path, with_fields(path, body, **fields))
    assert request.rules is not None
    assert (request.rules.mode, request.rules.language) == ("block", "java")
    assert "suffix" not in request.rules.settings
    assert (request.rules.prefixes, request.rules.suffixes, request.max_time_ms) == ((PREFIX,), (SUFFIX,), 70)
    assert request.session is not None
    assert (request.session.prefix, request.session.prefix_length) == (PREFIX, len(PREFIX))


async def test_the_text_ends_and_says_why(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    body = {"prompt": "x = 1\n", "max_tokens": 90, "completion_mode": "line"}
    (choice,) = (await client.post("/v1/completions", json=body)).json()["choices"]
    assert (choice["text"], choice["finish_reason"], choice["ended_by"]) == (ANSWER.split("\n")[0], "stop", "line")
    assert choice["stop_reason"] is None
    (choice,) = (await client.post("/v1/completions", json=body | {"completion_mode": "raw"})).json()["choices"]
    assert (choice["text"], "ended_by" in choice) == (ANSWER, False)
    streamed = await client.post("/v1/completions", json=body | {"stream": True})
    parts = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert "".join(part["choices"][0]["text"] for part in parts) == ANSWER.split("\n")[0]
    assert parts[-1]["choices"][0]["ended_by"] == "line"


@pytest.mark.parametrize("mode", ["line", "auto", "raw"])
async def test_tgis_tokens_are_its_text(client: httpx.AsyncClient, mode: str) -> None:
    """No token is sent whose text a rule may still cut."""
    parameters = {"max_new_tokens": 90, "completion_mode": mode, "details": True}
    answer = await client.post("/generate_stream", json={"inputs": "x = 1\n", "parameters": parameters})
    events = [json.loads(line[5:]) for line in answer.text.splitlines() if line.startswith("data:")]
    text = "".join(event["token"]["text"] for event in events if not event["token"]["special"])
    assert text == events[-1]["generated_text"] == (ANSWER.split("\n")[0] if mode == "line" else text)
    assert events[-1]["details"].get("ended_by") == {"line": "line"}.get(mode)
    assert ANSWER.startswith(text)


async def test_a_floor_of_confidence_reads_probabilities_that_nobody_asked_for(
    client: httpx.AsyncClient, fake_backend: FakeBackend
) -> None:
    body = {"prompt": "x = 1\n", "max_tokens": 90, "min_logprob": -0.01}
    (choice,) = (await client.post("/v1/completions", json=body)).json()["choices"]
    assert (choice["text"], choice["finish_reason"], choice["ended_by"]) == ("", "stop", "low_confidence")
    assert choice["logprobs"] is None
    (choice,) = (await client.post("/v1/completions", json=body | {"min_logprob": -50})).json()["choices"]
    assert choice["text"] == ANSWER


async def test_sessions_belong_to_one_caller_and_one_file(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    async def key(headers: dict[str, str], **fields: Any) -> str | None:
        session = (await asked(client, fake_backend, "/v1/completions", {"prompt": "x", **fields}, **headers)).session
        return session and session.key

    named = {"x-session-id": "s"}
    keys = [
        await key(named),
        await key({"x-session-id": "t"}),
        await key(named, filename="a.py"),
        await key(named, repository={"path": "b.py"}),
        await key({**named, "authorization": "Bearer k"}),
        await key({**named, "x-api-key": "l"}),
        await key({}, user="s", filename="a.py"),
    ]
    assert len({*keys, None}) == len(keys) + 1
    assert await key({}, session_id="s") == keys[0]
    assert await key(named, session_id="t") == keys[1]
    assert await key({}, user="s") is None
    assert await key({}) is None
    tabby = await asked(client, fake_backend, "/v1/completions", {"segments": SEGMENTS, "user": "s"})
    assert tabby.session is not None
    assert tabby.session.key == keys[-1]


REPOSITORY = {"path": "a.py", "files": [{"path": "b.py", "content": "b = 1\n"}]}


async def test_what_is_not_typed_stands_for_itself(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    """A session's text goes on only where all that surrounds what is typed has stayed: see `replica.sessions`."""

    async def surroundings(prompt: Any, **fields: Any) -> str:
        body = {"prompt": prompt, "session_id": "s", **fields}
        session = (await asked(client, fake_backend, "/v1/completions", body)).session
        assert session is not None
        return session.surroundings

    infill = await surroundings(PREFIX, suffix=SUFFIX, repository=REPOSITORY, fim_mode="spm")
    assert await surroundings(PREFIX + "typed on", suffix=SUFFIX, repository=REPOSITORY, fim_mode="spm") == infill
    other_file = {**REPOSITORY, "files": [{"path": "b.py", "content": "b = 2\n"}]}
    ids = [await surroundings(ids) for ids in ([100, 101], [100, 102], [100, 101, 102])]
    found = [
        infill,
        await surroundings(PREFIX, suffix=SUFFIX, fim_mode="spm"),
        await surroundings(PREFIX, suffix=SUFFIX + "x", repository=REPOSITORY, fim_mode="spm"),
        await surroundings(PREFIX, suffix=SUFFIX, repository=other_file, fim_mode="spm"),
        await surroundings(PREFIX, suffix=SUFFIX, repository=REPOSITORY, fim_mode="psm"),
        await surroundings(PREFIX, suffix=SUFFIX.replace("\n", "\r\n"), repository=REPOSITORY, fim_mode="spm"),
        await surroundings(PREFIX),
        await surroundings(f"<fim_prefix>{PREFIX}<fim_suffix>{SUFFIX}<fim_middle>"),
        await surroundings(f"<fim_prefix>{PREFIX}<fim_suffix>{SUFFIX}x<fim_middle>"),
        *ids,  # what is typed cannot be told: all of it surrounds
    ]
    assert len(set(found)) == len(found)
    assert await surroundings([100, 101]) == ids[0]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"completion_mode": "word"}, "completion_mode"),
        ({"completion_mode": "auto", "prompt": [1, 2]}, "completion_mode"),
        ({"completion_mode": "auto", "min_tokens": 2}, "min_tokens"),
        ({"min_logprob": 0.5}, "min_logprob"),
        ({"max_time_ms": 0}, "max_time_ms"),
        ({"session_id": ""}, "session_id"),
    ],
)
async def test_refusals_name_the_field(client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    response = await client.post("/v1/completions", json={"prompt": "x", **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert (
        await client.post("/v1/completions", json={"prompt": "x"}, headers={"x-session-id": "a" * 999})
    ).status_code == 400


class SupersedingBackend(FakeBackend):
    """Ends every request before its first token."""

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        self.requests.append(request)
        yield [Delta(index=0, finish_reason="stop", ended_by="superseded")]


@pytest.fixture
def superseding(app: FastAPI, fake_backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_backend, "stream", SupersedingBackend(fake_backend.tokenizer).stream)


@pytest.mark.usefixtures("superseding")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), [*EDITORS, *RAW])
async def test_a_superseded_request_ends_well(client: httpx.AsyncClient, path: str, body: Any, stream: bool) -> None:
    if path == "/generate":
        path, body = ("/generate_stream" if stream else path), with_fields("/generate", body, details=True)
    elif "segments" not in body:
        body = body | {"stream": stream}
    response = await client.post(path, json=body)
    assert response.status_code == 200
    assert '"ended_by":"superseded"' in response.text
    assert '"error"' not in response.text
