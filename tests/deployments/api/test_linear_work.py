"""Whatever clients send, the work for it is linear in it, and holds no event loop for long."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Container, Mapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from benchmarks.server.hostile_bodies import HOSTILE_BODIES
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
TEXTUAL = [path for path, schema in posts(DOCUMENT).items() if any(with_text(schema, "", DOCUMENT))]
"""Routes whose bodies have a text somewhere."""


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(backend=FakeBackend(TOKENIZER, window=8192), tokenizer=TOKENIZER)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        await client.post("/v1/completions", json={"prompt": "x"})
        yield client


async def held(
    client: httpx.AsyncClient,
    path: str,
    body: bytes,
    statuses: Container[int] = range(500),
    headers: Mapping[str, str] | None = None,
) -> float:
    async def send() -> None:
        sent = {"content-type": "application/json", **(headers or {})}
        response = await client.post(path, content=body, headers=sent)
        assert response.status_code in statuses, response.text

    return await least_hold(send, HELD_S)


@pytest.mark.parametrize("path", TEXTUAL)
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


@pytest.mark.parametrize("name", HOSTILE_BODIES)
async def test_a_hostile_body(client: httpx.AsyncClient, name: str) -> None:
    """As the soak test sends it to a real server, with the same answer."""
    one = HOSTILE_BODIES[name]
    coding = {} if one.coding is None else {"content-encoding": one.coding}
    assert await held(client, one.path, one.make(), one.statuses, coding) <= HELD_S


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
