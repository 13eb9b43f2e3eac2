"""How long a client may take over each head, in virtual time: the protocol over a wire that a test holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from deployments.http.connection import GuardedProtocol
from deployments.http.middleware import LINGER_S
from deployments.limits import ApiLimits

pytestmark = pytest.mark.virtual_time

GET = b"GET / HTTP/1.1\r\nhost: x\r\n"
END = b"\r\n"


class Hurried(GuardedProtocol):
    limits = ApiLimits(head_timeout_s=0.6, keep_alive_timeout_s=5)


class Wire(asyncio.Transport):
    """The server's end. written: what the client gets. closed_at: by the loop's time."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.protocol: GuardedProtocol
        self.written = b""
        self.closed_at: float | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed_at is not None

    def close(self) -> None:
        if self.closed_at is None:
            loop = asyncio.get_running_loop()
            self.closed_at = loop.time()
            loop.call_soon(self.protocol.connection_lost, None)

    abort = close

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0

    @property
    def statuses(self) -> list[int]:
        return [int(part[:3]) for part in self.written.split(b"HTTP/1.1 ")[1:]]


@asynccontextmanager
async def connected(answer_s: float = 0.0) -> AsyncIterator[tuple[Wire, GuardedProtocol]]:
    """To a server that begins its answers at once, and ends them after so many seconds."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await asyncio.sleep(answer_s)
        await send({"type": "http.response.body", "body": b"whole"})

    config = uvicorn.Config(answer, lifespan="off", http=Hurried, log_config=None)
    config.load()
    options: dict[str, Any] = {"config": config, "server_state": ServerState(), "app_state": {}}
    wire = Wire()
    wire.protocol = Hurried(**options, _loop=asyncio.get_running_loop())
    wire.protocol.connection_made(wire)
    try:
        yield wire, wire.protocol
    finally:
        wire.close()
        await asyncio.sleep(0)


async def test_the_time_of_a_head_begins_anew_for_each() -> None:
    """Between them a connection may rest for longer."""
    async with connected() as (wire, server):
        for number in range(4):
            server.data_received(GET)
            await asyncio.sleep(0.5)
            server.data_received(END)
            await asyncio.sleep(2.0)
            assert wire.statuses == [200] * (number + 1)
        began = asyncio.get_running_loop().time()
        server.data_received(GET)
        await asyncio.sleep(0.5)
        server.data_received(b"x: y\r\n")  # which gives it no more time
        await asyncio.sleep(0.2)
        assert wire.statuses == [200] * 4 + [408]
        assert b'"code":"request_timeout"' in wire.written
        await asyncio.sleep(LINGER_S + 1)
        assert wire.closed_at == pytest.approx(began + 0.6 + LINGER_S)


async def test_a_slow_answer_is_not_cut_by_the_next_head() -> None:
    """Whose time begins once this one is answered."""
    async with connected(answer_s=1.5) as (wire, server):
        server.data_received(GET + END + GET)
        await asyncio.sleep(1.4)
        assert (wire.statuses, wire.closed_at) == ([200], None)
        await asyncio.sleep(0.2)
        assert wire.written.endswith(b"whole")
        await asyncio.sleep(0.4)
        assert wire.statuses == [200], "it has a tenth of a second left"
        await asyncio.sleep(0.2)
        assert wire.statuses == [200, 408]


async def test_a_connection_that_never_says_anything_and_one_that_rests_are_closed_without_a_word() -> None:
    async with connected() as (wire, _):
        await asyncio.sleep(2.0)
        assert (wire.statuses, wire.closed_at) == ([], pytest.approx(0.6))
    async with connected() as (wire, server):
        began = asyncio.get_running_loop().time()
        server.data_received(GET + END)
        await asyncio.sleep(6.0)
        assert (wire.statuses, wire.closed_at) == ([200], pytest.approx(began + 5.0))
