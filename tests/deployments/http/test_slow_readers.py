"""Over real sockets, with the protocol that Serve's proxy gets: clients that do not take their answer."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.types import Receive, Scope, Send

from deployments.http.connection import GuardedProtocol
from deployments.http.slow_reader import taken_bytes
from deployments.limits import ApiLimits
from tests.support.http_server import serving
from tests.support.waiting import wait_until

TIMEOUT_S = 1.0
GET = b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n"


class Impatient(GuardedProtocol):
    limits = ApiLimits(write_timeout_s=TIMEOUT_S)


class Stream:
    """An app that writes without end, or `size` bytes in one piece."""

    def __init__(self, size: int | None = None) -> None:
        self.size = size
        self.sent = 0
        self.ended = threading.Event()
        self.disconnected = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [] if self.size is None else [(b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while (await receive()).get("more_body", False):
            pass
        watcher = asyncio.create_task(self._watch(receive))
        if self.size is not None:
            await send({"type": "http.response.body", "body": b"x" * self.size})
        while self.size is None and not self.disconnected.is_set():
            await send({"type": "http.response.body", "body": b"x" * 8192, "more_body": True})
            self.sent += 8192
            await asyncio.sleep(0)
        watcher.cancel()
        self.ended.set()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.disconnected.set()


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stream(request: pytest.FixtureRequest) -> Stream:
    return Stream(getattr(request, "param", None))


@pytest.fixture
def url(stream: Stream, loop: str) -> Iterator[str]:
    with serving(stream, http=Impatient, loop=loop) as url:
        yield url


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    connection = socket.socket()
    connection.settimeout(60)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    connection.connect((parts.hostname, parts.port))
    return connection


def is_reset(connection: socket.socket) -> bool:
    """Read what has come; whether the server has broken it off."""
    try:
        while connection.recv(65_536):
            pass
    except ConnectionResetError:
        return True
    return False


def test_who_reads_nothing_is_a_client_that_has_left(url: str, stream: Stream) -> None:
    with connect(url) as connection:
        connection.sendall(GET)
        wait_until(stream.ended.is_set, "the app still writes")
        assert stream.disconnected.is_set()
        assert is_reset(connection)


def test_a_byte_now_and_then_is_not_reading(url: str, stream: Stream) -> None:
    with connect(url) as connection:
        connection.sendall(GET)
        while not stream.ended.wait(TIMEOUT_S / 10):
            connection.recv(1)
        assert stream.disconnected.is_set()


def test_who_reads_slowly_but_steadily_gets_all(url: str, stream: Stream) -> None:
    """For as long as it takes; it never has all that has been written."""
    with connect(url) as connection:
        connection.sendall(GET)
        began, read = time.monotonic(), 0
        while time.monotonic() - began < 5 * TIMEOUT_S:
            read += len(connection.recv(16_384))
            assert not stream.ended.wait(TIMEOUT_S / 50), f"cut after {read} of {stream.sent} bytes"
        assert 0 < read < stream.sent


@pytest.mark.parametrize("stream", [50_000_000], indirect=True)
def test_the_end_of_an_answer_does_not_wait_for_its_reader_either(url: str, stream: Stream) -> None:
    """All of it is written, and the connection is to be closed when it is read."""
    with connect(url) as connection:
        connection.sendall(GET)
        wait_until(stream.ended.is_set, "the app still writes")
        wait_until(lambda: not server_connections(url), "the server still holds the connection")


def server_connections(url: str) -> list[str]:
    """Connections that the server's end has not let go of, as the kernel lists them."""
    port = f":{urlsplit(url).port:04X}"
    with open("/proc/net/tcp") as table:
        lines = [line.split() for line in table.readlines()[1:]]
    return [fields[3] for fields in lines if fields[1].endswith(port) and fields[3] != "0A" and fields[9] != "0"]


def transport(own: object, waiting: int = 7) -> asyncio.Transport:
    found: Any = SimpleNamespace(get_extra_info={"socket": own}.get, get_write_buffer_size=lambda: waiting)
    return found  # type: ignore[no-any-return]


def test_what_was_taken_is_what_the_clients_machine_has_acknowledged() -> None:
    """Not what the kernel has taken off our hands."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()) as own:
        peer, _ = listening.accept()
        before = taken_bytes(transport(own))
        own.sendall(b"x" * 1000)
        with peer:
            wait_until(lambda: taken_bytes(transport(own)) - before == 1000, "nothing is acknowledged")
            assert taken_bytes(transport(peer)) < 1000, "that is what came, not what it has sent"


def test_where_nobody_tells_it_is_what_has_left_our_buffer() -> None:
    closed = socket.socket()
    closed.close()
    one, other = socket.socketpair()  # of no network
    with one, other:
        for own in (None, closed, one):
            assert (taken_bytes(transport(own)), taken_bytes(transport(own, 0))) == (-7, 0)
    short = SimpleNamespace(family=socket.AF_INET, getsockopt=lambda *_: b"x" * 100)  # of an old kernel
    assert taken_bytes(transport(short)) == -7
    asked: list[Any] = []
    info = SimpleNamespace(
        family=socket.AF_INET6,
        getsockopt=lambda *what: asked.append(what) or b"x" * 120 + (5).to_bytes(8, sys.byteorder),
    )
    assert taken_bytes(transport(info)) == 5
    assert asked == [(socket.IPPROTO_TCP, socket.TCP_INFO, 128)]
