"""Whatever clients send, the work for it is linear in it, and holds no event loop for long."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from deployments.api.common import json_size
from deployments.api.common.json_body import decode_json
from deployments.api.common.json_size import has_too_many_values
from deployments.api.llamacpp.self_stops import SelfStops
from deployments.api.openai.chat_prompt import Turn, dialogue, render_chat
from deployments.api.refactor import unified_diff
from deployments.api.tabby import Segments
from deployments.api.tgi.tokens import TokenWriter
from deployments.errors import InvalidRequestError
from deployments.ingress import create_app
from deployments.protocol import Delta, gather
from model.request import TokenLogprobs
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import MODEL, FakeBackend
from tests.support.held import least_hold
from tests.support.linear import PIECES, is_linear, text
from tests.support.request_bodies import posts, with_text
from tests.support.tokenizers import starcoder_rules

HELD_S = 0.02
"""So long an event loop may be held at a time."""

SENT = 400_000
KINDS = ("minified code", "blank lines", "opening braces", "names of tokens", "combining characters")
TOKENIZER = Tokenizer(starcoder_rules())
DOCUMENT = create_app(backend=FakeBackend(TOKENIZER), tokenizer=TOKENIZER).openapi()


@pytest.fixture
def app(tokenizer: Tokenizer) -> FastAPI:
    return create_app(backend=FakeBackend(tokenizer, window=8192), tokenizer=tokenizer)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        await client.post("/v1/completions", json={"prompt": "x"})
        yield client


async def held(client: httpx.AsyncClient, path: str, body: bytes) -> float:
    async def send() -> None:
        response = await client.post(path, content=body, headers={"content-type": "application/json"})
        assert response.status_code < 500, response.text

    return await least_hold(send, HELD_S)


@pytest.mark.parametrize("path", posts(DOCUMENT))
async def test_a_long_text_in_any_field(client: httpx.AsyncClient, path: str) -> None:
    schema, found = posts(DOCUMENT)[path], 0
    for kind in KINDS:
        for field, body in with_text(schema, text(kind, SENT), DOCUMENT):
            if path == "/api/generate" and field != ".model":
                body["model"] = MODEL
            seconds = await held(client, path, json.dumps(body, ensure_ascii=False).encode())
            assert seconds <= HELD_S, f"{kind} in {field}"
            found += 1
    assert found


def some(count: int, value: str, around: str = '{"prompt": [%s]}') -> bytes:
    return (around % ",".join([value] * count)).encode()


MESSAGE, PART = '{"role": "user", "content": "x"}', '{"type": "text", "text": "x"}'
CODE = text("minified code", 28_000)
HARD: dict[str, tuple[str, bytes]] = {
    "token ids": ("/v1/completions", some(1_300_000, "1")),
    "as many as may be": ("/v1/completions", some(250_000, "1")),
    "lists of ids": ("/v1/completions", some(600_000, "[1]")),
    "as many lists as may be": ("/v1/completions", some(9_000, "[1]")),
    "short prompts": ("/v1/completions", some(600_000, '"x"')),
    "empty lists": ("/v1/completions", some(1_000_000, "[]", '{"prompt": "x", "a": [%s]}')),
    "empty objects": ("/v1/completions", some(9_990, "{}", '{"prompt": "x", "a": [%s]}')),
    "open lists": ("/v1/completions", b"[" * 4_000_000),
    "half surrogates": ("/v1/completions", b'{"prompt": "' + rb"\udc00" * 600_000 + b'"}'),
    "stop strings": ("/v1/completions", some(600_000, '"x"', '{"prompt": "x", "stop": [%s]}')),
    "long stop strings": (
        "/v1/completions",
        json.dumps({"prompt": "x", "n": 64, "stop": [chr(65 + i) + "ab" * 511 for i in range(16)]}).encode(),
    ),
    "biases": (
        "/v1/completions",
        json.dumps({"prompt": "x", "logit_bias": dict.fromkeys(map(str, range(250_000)), 1)}).encode(),
    ),
    "pairs of biases": ("/infill", some(300_000, "[1,1]", '{"logit_bias": [%s]}')),
    "turns": ("/v1/chat/completions", some(4_096, MESSAGE, '{"messages": [%s]}')),
    "parts": (
        "/v1/chat/completions",
        some(120_000, PART, '{"messages": [{"role": "user", "content": [%s]}]}'),
    ),
    "wrong turns": ("/v1/chat/completions", some(9_000, '{"role": 1}', '{"messages": [%s]}')),
    "fields of the answer": ("/infill", some(600_000, '"a"', '{"n_cmpl": 16, "response_fields": [%s]}')),
    "other files": (
        "/infill",
        json.dumps({"input_prefix": "x", "input_extra": [{"text": CODE[:3400]}] * 1024}).encode(),
    ),
    "an address": (
        "/v1/completions",
        json.dumps({"segments": {"prefix": "a", "git_url": "a" * 2000 + "/" + "a" * 2000 + ":"}}).encode(),
    ),
    "a long suffix of many prompts": (
        "/v1/completions",
        json.dumps({"prompt": [str(i) for i in range(128)], "suffix": CODE * 8, "truncate_prompt_tokens": -1}).encode(),
    ),
    "many prompts to be cut": (
        "/v1/completions",
        json.dumps({"prompt": [f"{i} {CODE}" for i in range(128)], "truncate_prompt_tokens": -1}).encode(),
    ),
    "both sides of a cursor in a session": (
        "/infill",
        json.dumps({"input_prefix": CODE * 60, "input_suffix": CODE * 60, "session_id": "s", "filename": "f"}).encode(),
    ),
}


@pytest.mark.parametrize("name", HARD)
async def test_a_hard_body(client: httpx.AsyncClient, name: str) -> None:
    path, body = HARD[name]
    assert len(body) <= 4 << 20
    assert await held(client, path, body) <= HELD_S


def paths_and_pieces(content: str) -> None:
    Segments(prefix="", git_url=content[:4096]).to_context()


def self_stops(content: str) -> None:
    stops = SelfStops(n_indent=1, t_max_ms=1000)
    for char in content:
        stops.apply(Delta(index=0, text=char))


def gathering(content: str) -> None:
    whole: dict[int, Delta] = {}
    for char in content:
        gather(whole, [Delta(index=0, text=char, token_ids=[1], text_offsets=[1])])


def token_writing(content: str) -> None:
    ids = [300] * len(content)
    logprobs = [TokenLogprobs(300, -1.0)] * len(content)
    TokenWriter(TOKENIZER, 0).write(
        Delta(index=0, text=content, token_ids=ids, logprobs=logprobs, finish_reason="stop")
    )


def body_of(content: str) -> None:
    decode_json(json.dumps({"prompt": content}).encode())


def no_json(content: str) -> None:
    with pytest.raises(InvalidRequestError):
        decode_json((content + "\\ud800").encode())


WORK: dict[str, tuple[Callable[[str], Any], int]] = {
    "bodies": (body_of, 400_000),
    "what is no JSON": (no_json, 400_000),
    "counting values": (lambda content: has_too_many_values(content.encode() + b"," * 300_000), 400_000),
    "addresses": (paths_and_pieces, 4096),
    "dialogues": (lambda content: dialogue([Turn("user", content)]), 400_000),
    "chats": (lambda content: render_chat(TOKENIZER, [Turn("user", content)]), 40_000),
    "diffs": (lambda content: unified_diff(content, content[::-1], "f"), 40_000),
    "rules of llama.cpp": (self_stops, 8_000),
    "gathering deltas": (gathering, 8_000),
    "tokens of TGI": (token_writing, 8_000),
}


@pytest.mark.parametrize("name", WORK)
def test_work_is_linear(name: str) -> None:
    work, length = WORK[name]
    assert [kind for kind in PIECES if not is_linear(work, kind, length)] == []


JSON = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('a",[{\\'), max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('b",]\\', max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(value=JSON)
def test_values_are_counted_as_they_are(value: Any) -> None:
    """The least limits with which a body passes are what it has."""
    containers = commas = strings = 0
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, list | dict):
            containers += 1
            commas += max(len(one) - 1, 0)
            left += one
            left += one.values() if isinstance(one, dict) else []
        strings += isinstance(one, str)
    body = json.dumps(value).encode()
    with pytest.MonkeyPatch.context() as patch:
        for more_containers, more_values in ((0, 0), (-1, 0), (0, -1)):
            patch.setattr(json_size, "MAX_CONTAINERS", containers + more_containers)
            patch.setattr(json_size, "MAX_VALUES", commas + strings + 1 + more_values)
            too_many = json_size._too_many_outside_strings(body)
            assert too_many == bool(more_containers or more_values), body
            if not too_many:
                assert not has_too_many_values(body)
