"""The client before the floor: both know the same table, so all that comes can be counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.servers import Server
from benchmarks.stack import client
from benchmarks.stack.asking import Asking, Shape, post
from benchmarks.stack.client import Exchange, look
from benchmarks.stack.floor import COUNT, Recorded, create_app
from benchmarks.stack.load import Found, Load
from benchmarks.stack.recording import record
from benchmarks.stack.table import Table, prompts
from model.pico import CHECKPOINT
from model.text.tokenizer import Tokenizer
from tests.support.http_server import serving

TOKENS = 8


@pytest.fixture(scope="module")
def pico() -> Tokenizer:
    return Tokenizer.from_checkpoint(CHECKPOINT)


@pytest.fixture(scope="module")
def table(pico: Tokenizer) -> Table:
    return Table.read(pico, 64)


@pytest.fixture(scope="module")
def asking(pico: Tokenizer) -> Asking:
    return Asking(pico, 32, "text")


def sse(body: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


@pytest.fixture(scope="module")
def recorded(table: Table) -> Recorded:
    starts = [0, *table.ends]
    texts = [table.text[a:b] for a, b in zip(starts, table.ends, strict=False)][:TOKENS]
    usage = {"completion_tokens": TOKENS}
    assert COUNT % TOKENS in sse(usage)
    return Recorded(
        [sse({"choices": [{"text": text}], "usage": None}) for text in texts],
        sse({"choices": [], "usage": usage}) + b"data: [DONE]\n\n",
        json.dumps({"choices": [{"text": "".join(texts)}], "usage": usage}).encode(),
    )


@pytest.fixture(scope="module")
def port(recorded: Recorded) -> Iterator[int]:
    with serving(create_app(recorded)) as url:
        yield urlsplit(url).port or 0


async def run(port: int, shape: Shape, asking: Asking, table: Table) -> Found:
    said: list[str] = []
    load = Load(port, shape.kind, shape.streams, 0.0, 0.4, asking.first(shape), asking.requests(shape), table.ends)
    found = await client.run(load, lambda word, flush: said.append(word))
    assert said == [client.BEGIN, client.END]
    assert found.seconds >= 0.4
    return found


async def test_streams_are_counted_by_tokens(port: int, asking: Asking, table: Table) -> None:
    found = await run(port, Shape("", "stream", 3, TOKENS, 5), asking, table)
    assert found.failed == []
    assert found.updates <= found.tokens <= 3 * found.seconds / 0.005 + 3
    assert found.requests > 0
    assert len(found.ttft) == len(found.e2el) > 0
    assert min(found.ttft) >= 0.004
    assert all(first <= last for first, last in zip(found.ttft, found.e2el, strict=True))
    assert len(found.gaps) > 0


async def test_whole_answers_and_others(port: int, asking: Asking, table: Table) -> None:
    whole = await run(port, Shape("", "whole", 2, TOKENS, 1), asking, table)
    assert (whole.failed, whole.tokens, whole.updates) == ([], whole.requests * TOKENS, 0)
    version = await run(port, Shape("", "get", 1, 0, 0), asking, table)
    assert (version.failed, version.tokens) == ([], 0)
    assert version.requests > 1


async def test_failures_are_told(port: int, asking: Asking, table: Table) -> None:
    wrong = [post("/nothing", {})]
    found = await client.run(Load(port, "stream", 1, 0.0, 0.05, wrong, wrong), lambda word, flush: None)
    assert found.failed[0].startswith("404: ")
    with pytest.raises(RuntimeError, match="does not answer"):
        await client.run(Load(1, "stream", 1, 0.0, 0.05, wrong, wrong), lambda word, flush: None)


async def test_a_server_that_ends_connections_is_asked_on_new_ones() -> None:
    """As HAProxy does when it gives way to its successor."""
    clients = set[object]()

    async def version(request: Request) -> Response:
        clients.add(request.client)
        return Response(b"{}", headers={"connection": "close"} if len(clients) % 2 else {})

    asked = [b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"]
    with serving(Starlette(routes=[Route("/", version)])) as url:
        load = Load(urlsplit(url).port or 0, "get", 1, 0.0, 0.1, asked, asked)
        found = await client.run(load, lambda word, flush: None)
    assert found.failed == []
    assert len(clients) > 1


def test_only_what_came_in_the_measured_time_counts(recorded: Recorded, table: Table) -> None:
    pieces = [(float(at), event) for at, event in enumerate([b"".join(recorded.events[:3]), *recorded.events[3:]])]
    exchange = Exchange(-1.0, [*pieces, (9.0, recorded.last)], 9.0, 200)
    load = Load(0, "stream", 1, 0, 0, [], [], table.ends)
    found = look(load, [exchange], 0.5, 3.5)
    assert (found.tokens, found.updates, found.gaps, found.requests) == (3, 3, [1.0, 1.0, 1.0], 0)
    found = look(load, [exchange], -2.0, 10.0)
    assert (found.tokens, found.updates, found.requests, found.ttft, found.e2el) == (8, 6, 1, [1.0], [10.0])
    exchange.pieces.pop(2)
    assert "the server says" in look(load, [exchange], -2.0, 10.0).failed[0]


def test_an_answer_that_nobody_knows_is_counted_as_the_server_says() -> None:
    def pieces(reason: str | None, *usage: dict[str, int]) -> list[tuple[float, bytes]]:
        choices = [{"text": "ab"}, {"text": ""}, {"text": "c", "finish_reason": reason}]
        came = [(float(at), sse({"choices": [choice]})) for at, choice in enumerate(choices, 1)]
        return [*came, *((4.0, sse({"choices": [], "usage": one})) for one in usage)]

    load = Load(0, "stream", 1, 0, 0, [], [])
    right = Exchange(0.5, pieces("length", {"completion_tokens": 5}), 4.0, 200)
    found = look(load, [right], 0.0, 9.0)
    assert (found.tokens, found.updates, found.gaps, found.ttft, found.failed) == (5, 2, [2.0], [0.5], [])
    assert look(load, [right], 2.5, 9.0).tokens == 3
    for wrong in (pieces("stop", {"completion_tokens": 5}), pieces("length")):
        found = look(load, [Exchange(0.5, wrong, 4.0, 200)], 0.0, 9.0)
        assert (len(found.failed), found.requests, found.tokens, found.ttft) == (1, 0, 0, [])


def test_what_a_server_writes_is_recorded(port: int, asking: Asking, recorded: Recorded) -> None:
    assert record(Server("", port, 0, CHECKPOINT), asking, TOKENS) == recorded


def test_the_table_is_a_text(pico: Tokenizer, table: Table) -> None:
    assert pico.decode(table.ids) == table.text
    assert table.text[: table.ends[9]] == pico.decode(table.ids[:10])
    assert len(table.ends) == len(table.ids) == 64
    assert sorted(set(table.ends)) == table.ends


def test_prompts_have_the_length_that_is_asked_for(pico: Tokenizer) -> None:
    found = prompts(pico, 8, 100)
    assert [len(pico.encode(pico.decode(ids))) for ids in found] == [100] * 8
    assert len({tuple(ids) for ids in found}) == 8
    assert prompts(pico, 8, 100) == found
    with pytest.raises(ValueError, match="shorter"):
        prompts(pico, 1, 10**7)


def test_first_answers_have_many_lengths(pico: Tokenizer, asking: Asking) -> None:
    shape = Shape("", "stream", 50, 128, 5)
    bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in asking.first(shape)]
    assert len(bodies) == 50
    assert len({body["max_tokens"] for body in bodies}) > 20
    assert {body["seed"] for body in bodies} == {5000}
    ids = Asking(pico, 32, "ids").request(shape, 0, 1)
    assert len(json.loads(ids.partition(b"\r\n\r\n")[2])["prompt"]) == 32
