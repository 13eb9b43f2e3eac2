"""Over real sockets, with the protocol that Serve's proxy gets: more connections than it takes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from starlette.types import Receive, Scope, Send

from deployments.http import room
from deployments.http.connection import GuardedProtocol
from deployments.limits import ApiLimits
from tests.support.http_server import serving
from tests.support.waiting import wait_until

MOST = 4
GET = b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n"
HELD = b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n"


class Narrow(GuardedProtocol):
    limits = ApiLimits(max_connections=MOST)


class Held:
    """An app that answers at once, but `/held` when it is let go."""

    def __init__(self) -> None:
        self.held = 0
        self.go_on = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/held":
            self.held += 1
            await asyncio.to_thread(self.go_on.wait)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def app() -> Held:
    return Held()


@pytest.fixture(params=["uvloop", "asyncio"])
def url(request: pytest.FixtureRequest, app: Held) -> Iterator[str]:
    with serving(app, http=Narrow, loop=request.param) as url:
        yield url
        app.go_on.set()


@pytest.fixture
def connections() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def connect(url: str, stack: contextlib.ExitStack) -> socket.socket:
    parts = urlsplit(url)
    return stack.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=60))


def asked(url: str, stack: contextlib.ExitStack, request: bytes) -> socket.socket:
    connection = connect(url, stack)
    connection.sendall(request)
    return connection


def answered(connection: socket.socket) -> bytes:
    found = b""
    while not found.endswith(b"ok"):
        part = connection.recv(65_536)
        assert part, found
        found += part
    return found


def read(connection: socket.socket) -> bytes:
    """Until the server closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            found += part
    return found


def hold(url: str, stack: contextlib.ExitStack, app: Held, count: int) -> list[socket.socket]:
    """Connections whose requests are being answered."""
    before = app.held
    held = [asked(url, stack, HELD) for _ in range(count)]
    wait_until(lambda: app.held == before + count, "the requests do not arrive")
    return held


def test_one_too_many_is_turned_away(url: str, app: Held, connections: contextlib.ExitStack) -> None:
    held = hold(url, connections, app, MOST)
    for request in (GET, b""):
        answer = read(asked(url, connections, request))
        assert answer.startswith(b"HTTP/1.1 503 ")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert {b"connection: close", b"retry-after: 1"} <= set(head.split(b"\r\n"))
        assert b'"code":"too_many_connections"' in body
    app.go_on.set()
    assert all(answered(connection).startswith(b"HTTP/1.1 200 ") for connection in held)


def test_those_that_were_turned_away_take_no_place(
    url: str, app: Held, connections: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even while they linger; those for whose lingering there is no room are cut."""
    monkeypatch.setattr(room, "MOST_LEAVING", 3)
    held = hold(url, connections, app, MOST)
    turned_away = [connect(url, connections) for _ in range(10)]
    heads = [connection.recv(12) for connection in turned_away]
    assert heads == [b"HTTP/1.1 503"] * 10
    app.go_on.set()
    assert answered(held[0]).startswith(b"HTTP/1.1 200 ")  # now it is idle, and makes room
    assert answered(asked(url, connections, GET)).startswith(b"HTTP/1.1 200 ")


def test_the_longest_idle_connection_makes_room(url: str, app: Held, connections: contextlib.ExitStack) -> None:
    hold(url, connections, app, MOST - 2)
    first, second = (connect(url, connections) for _ in range(2))
    for connection in (second, first, second):
        connection.sendall(GET)
        answered(connection)
    assert answered(asked(url, connections, GET)).startswith(b"HTTP/1.1 200 ")
    assert read(first) == b""
    second.sendall(GET)
    assert answered(second).startswith(b"HTTP/1.1 200 ")


def test_new_connections_make_room_for_no_one(url: str, connections: contextlib.ExitStack) -> None:
    """Their first request may be on its way."""
    new = [connect(url, connections) for _ in range(MOST)]
    assert connect(url, connections).recv(12) == b"HTTP/1.1 503"
    for connection in new:
        connection.sendall(GET)
        assert answered(connection).startswith(b"HTTP/1.1 200 ")
    assert answered(asked(url, connections, GET)).startswith(b"HTTP/1.1 200 ")


def test_a_crowd_at_once(url: str, app: Held, connections: contextlib.ExitStack) -> None:
    """Two hundred connections one after the other over four places, all of them idle in between."""
    for _ in range(200):
        assert answered(asked(url, connections, GET)).startswith(b"HTTP/1.1 200 ")
