"""One connection in virtual time, over a wire that a test holds: what is refused, who is cut, and who may stay."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from deployments.http import room
from deployments.http.connection import GuardedProtocol
from deployments.http.middleware import LINGER_S
from deployments.http.refusals import Refusals
from deployments.http.slow_reader import LEAST_TAKEN_BYTES
from deployments.limits import ApiLimits
from tests.deployments.http.test_time_of_heads import Wire

pytestmark = pytest.mark.virtual_time

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n"
LIMITS = ApiLimits(
    head_timeout_s=5, keep_alive_timeout_s=50, write_timeout_s=10, max_connections=2, max_head_bytes=4096
)


class Noted(Refusals):
    """all: why, and of whom."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[tuple[str, str | None]] = []

    def note(self, reason: str, client: str | None) -> None:
        self.all.append((reason, client))


class Buffered(Wire):
    """waiting: bytes that its client has not taken."""

    waiting = 0

    def get_write_buffer_size(self) -> int:
        return self.waiting


def now() -> float:
    return asyncio.get_running_loop().time()


class Server:
    """answer_s: how long each answer takes."""

    def __init__(self, app: ASGIApp | None = None, answer_s: float = 0.0) -> None:
        self.noted = noted = Noted()
        self.requests = 0
        self._answer_s = answer_s

        class Guarded(GuardedProtocol):
            limits = LIMITS
            refusals = noted

        self._config = uvicorn.Config(
            app or self._answer, interface="asgi3", lifespan="off", http=Guarded, log_config=None
        )
        self._config.load()
        self._protocol, self._state = Guarded, ServerState()
        self._wires: list[Buffered] = []

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests += 1
        await asyncio.sleep(self._answer_s)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    def connect(self) -> tuple[Buffered, GuardedProtocol]:
        wire = Buffered()
        options: dict[str, Any] = {"config": self._config, "server_state": self._state, "app_state": {}}
        wire.protocol = self._protocol(**options, _loop=asyncio.get_running_loop())
        wire.protocol.connection_made(wire)
        self._wires.append(wire)
        return wire, wire.protocol

    @property
    def open(self) -> int:
        return len(self._state.connections)

    async def end(self) -> None:
        for wire in self._wires:
            wire.close()
        await asyncio.sleep(self._answer_s + 1)


@contextmanager
def most_leaving(monkeypatch: pytest.MonkeyPatch, most: int) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(room, "MOST_LEAVING", most)
        yield


@pytest.mark.parametrize("most", [0, 1])
async def test_who_is_turned_away_may_read_why_if_there_is_room_for_that(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    server = Server()
    with most_leaving(monkeypatch, most):
        for _ in range(2):
            server.connect()
        began = now()
        wire, protocol = server.connect()
    assert wire.statuses == [503]
    assert b"\r\nretry-after: 1\r\n" in wire.written
    assert b"\r\nconnection: close\r\n" in wire.written
    assert b'"code":"too_many_connections"' in wire.written
    assert server.noted.all == [("too_many_connections", "127.0.0.1")]
    assert server.open == 2, "it takes no place"
    assert wire.closed_at == (None if most else began)
    protocol.data_received(GET)
    await asyncio.sleep(LINGER_S + 1)
    assert wire.closed_at == pytest.approx(began + (LINGER_S if most else 0.0))
    assert (wire.statuses, server.requests) == ([503], 0)
    await server.end()
    assert server.open == 0


async def test_a_connection_that_rests_makes_room_and_one_that_works_does_not() -> None:
    server = Server(answer_s=20.0)
    resting = server.connect()
    resting[1].data_received(GET)
    await asyncio.sleep(21)
    busy = server.connect()
    busy[1].data_received(GET)
    began = now()
    third, _ = server.connect()
    assert (resting[0].closed_at, third.statuses, server.open) == (began, [], 2)
    assert server.connect()[0].statuses == [503]
    await asyncio.sleep(21)
    assert busy[0].statuses == [200]
    await server.end()


@pytest.mark.parametrize(
    ("taken", "periods"), [(0, 1), (LEAST_TAKEN_BYTES - 1, 1), (LEAST_TAKEN_BYTES, 2), (5 * LEAST_TAKEN_BYTES, 2)]
)
async def test_who_does_not_take_enough_of_an_answer_in_its_time_is_cut(taken: int, periods: int) -> None:
    """Here in the second period nothing is taken."""
    server = Server(answer_s=100.0)
    wire, protocol = server.connect()
    protocol.data_received(GET)
    wire.waiting, began = 10 * LEAST_TAKEN_BYTES, now()
    protocol.pause_writing()
    await asyncio.sleep(1)
    protocol.pause_writing()  # it is watched already
    wire.waiting -= taken
    await asyncio.sleep(30)
    assert wire.closed_at == pytest.approx(began + periods * LIMITS.write_timeout_s)
    assert server.noted.all == [("slow_reader", "127.0.0.1")]
    await server.end()


async def test_who_has_taken_it_in_time_is_not_watched_any_more() -> None:
    server = Server(answer_s=100.0)
    wire, protocol = server.connect()
    protocol.data_received(GET)
    protocol.pause_writing()
    await asyncio.sleep(LIMITS.write_timeout_s - 1)
    protocol.resume_writing()
    await asyncio.sleep(30)
    assert (wire.closed_at, server.noted.all) == (None, [])
    await server.end()


@pytest.mark.parametrize("rest_after_s", [LINGER_S - 0.1, LINGER_S + 0.1])
async def test_an_answer_may_come_before_its_request_is_whole_which_then_has_a_while(rest_after_s: float) -> None:
    """Then the connection goes on, with the next request."""
    server = Server()
    wire, protocol = server.connect()
    protocol.data_received(POST + b"ab")
    await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert wire.statuses == [200]
    began = now() - 0.01
    await asyncio.sleep(rest_after_s)
    if rest_after_s > LINGER_S:
        assert wire.closed_at == pytest.approx(began + LINGER_S)
    else:
        protocol.data_received(b"cd")
        await asyncio.sleep(LINGER_S + 1)
        protocol.data_received(GET)
        await asyncio.sleep(1)
        assert wire.statuses == [200, 200]
        await asyncio.sleep(LIMITS.keep_alive_timeout_s)
        assert wire.closed_at == pytest.approx(began + rest_after_s + 0.01 + LINGER_S + 1 + LIMITS.keep_alive_timeout_s)
    assert server.noted.all == []
    await server.end()


async def test_what_is_no_http_behind_a_request_that_is_answered_ends_the_connection_without_a_word() -> None:
    """A second answer would be read as that of the first request."""
    server = Server(answer_s=5.0)
    wire, protocol = server.connect()
    protocol.data_received(GET)
    await asyncio.sleep(1)
    protocol.data_received(b"\x16\x03\x01\r\n\r\n")
    assert (wire.written, wire.closed_at) == (b"", now())
    assert server.noted.all == [("invalid_http", "127.0.0.1")]
    await server.end()


async def test_what_follows_a_refusal_is_dropped_and_refused_no_more() -> None:
    server = Server()
    wire, protocol = server.connect()
    began = now()
    protocol.data_received(b"\x16\x03\x01\r\n\r\n")
    await asyncio.sleep(1)
    for data in (b"\x16\x03\x01\r\n\r\n", GET):
        protocol.data_received(data)
    await asyncio.sleep(LINGER_S)
    assert (wire.statuses, wire.closed_at, server.requests) == ([400], pytest.approx(began + LINGER_S), 0)
    assert len(server.noted.all) == 1
    await server.end()


def head(size: int, url: int = 1) -> bytes:
    """That counts as so many bytes, so many of them its URL's."""
    return b"GET /" + b"u" * (url - 1) + b" HTTP/1.1\r\nx: " + b"v" * (size - url - len(b"x: \r\n")) + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("size", "url", "status", "reason"),
    [
        (4096, 1, 200, None),
        (4097, 1, 431, "head_too_large"),
        (4097, 2048, 431, "head_too_large"),
        (4097, 2049, 414, "request_line_too_long"),
        (4096, 3000, 200, None),
    ],
)
@pytest.mark.parametrize("pieces", [1, 40])
async def test_a_head_has_a_limit(size: int, url: int, status: int, reason: str | None, pieces: int) -> None:
    """However it comes: then it is refused before it is whole, and what stands around its parts counts."""
    server = Server()
    wire, protocol = server.connect()
    data = head(size, url)
    if pieces > 1 and status == 200:
        data = head(size - len(b"GET  HTTP/1.1\r\n\r\n"), url)
    length = -(-len(data) // pieces)
    for at in range(0, len(data), length):
        protocol.data_received(data[at : at + length])
    await asyncio.sleep(1)
    assert wire.statuses == [status]
    assert server.noted.all == ([(reason, "127.0.0.1")] if reason else [])
    if reason:
        assert f'"code":"{reason}"'.encode() in wire.written
    await server.end()


async def test_a_body_counts_as_no_head_but_what_follows_it_does() -> None:
    server = Server(answer_s=3.0)
    wire, protocol = server.connect()
    protocol.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(5):
        protocol.data_received(b"c00\r\n" + b"x" * 3072 + b"\r\n")
    assert server.noted.all == []
    protocol.data_received(b"0\r\n")
    for _ in range(2):
        assert server.noted.all == []
        protocol.data_received(b"x: " + b"t" * 2500 + b"\r\n")
    assert [reason for reason, _ in server.noted.all] == ["head_too_large"]
    assert wire.closed_at == now(), "it is being answered"
    await server.end()


@pytest.mark.parametrize("sized", [True, False])
async def test_http_1_0_has_answers_that_end_as_they_say_or_with_the_connection(sized: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"4")] if sized else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        await send({"type": "http.response.body", "body": b"cd"})

    server = Server(app)
    wire, protocol = server.connect()
    protocol.data_received(GET.replace(b"1.1", b"1.0"))
    await asyncio.sleep(0.01)
    fields, _, body = wire.written.partition(b"\r\n\r\n")
    assert body == b"abcd"
    assert b"chunked" not in fields
    assert wire.closed_at is not None
    await server.end()
