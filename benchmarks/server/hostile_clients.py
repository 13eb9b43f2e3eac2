"""Clients that nobody is glad of: they send hostile bodies, or heads without end, or leave in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.server.hostile_bodies import DONE, HOSTILE_BODIES, HostileBody

_PIECE = b"a" * 10_000
_DRIP_S = 0.25
_MOST_DRIPPED_S = 30.0
"""A head may take 20 s, unless the server was told otherwise."""


@dataclass(frozen=True)
class Server:
    """Where it is, as sockets see it. headers: of every request, a line each."""

    host: str
    port: int
    tls: bool
    base: str
    headers: bytes

    @classmethod
    def at(cls, url: str, api_key: str | None = None) -> Server:
        parts = urlsplit(url)
        host, tls = parts.hostname or "", parts.scheme == "https"
        headers = f"host: {parts.netloc}\r\n" + (f"authorization: Bearer {api_key}\r\n" if api_key else "")
        return cls(host, parts.port or (443 if tls else 80), tls, parts.path.rstrip("/"), headers.encode())

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Closed at the end, whatever is still to be read or written."""
        context = ssl.create_default_context() if self.tls else None
        reader, writer = await asyncio.open_connection(self.host, self.port, ssl=context)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    def head(self, path: str, length: int, *more: str) -> bytes:
        """Of a POST whose answer ends the connection."""
        fields = ["content-type: application/json", f"content-length: {length}", "connection: close", *more]
        lines = "".join(f"{line}\r\n" for line in fields)
        return f"POST {self.base}{path} HTTP/1.1\r\n".encode() + self.headers + f"{lines}\r\n".encode()


Perform = Callable[[Server], Awaitable[int | None]]


@dataclass(frozen=True)
class Attack:
    """perform: what is done; gives the status of the answer. statuses: which are right; None: there was to be none.

    HAProxy calls a head 400 where an ingress would say more, and who goes on sending may not hear it.
    """

    name: str
    perform: Perform
    statuses: frozenset[int | None]


SLOW_HEAD = "a head that takes its time"


def attacks(*names: str) -> list[Attack]:
    """Of these names, else one of each kind. Bodies are made here, megabytes of them."""
    left = frozenset({None})
    found = [
        Attack("a header without end", _flooding(b"x: "), frozenset({400, 431, None})),
        Attack("an address without end", _flooding(None), frozenset({400, 414, None})),
        Attack(SLOW_HEAD, _dripping, frozenset({408})),
        Attack("a client that leaves in a body", _leaving_in_a_body, left),
        Attack("a client that leaves before its answer", _leaving_before_the_answer, left),
        Attack("a client that leaves in a stream", _leaving_in_a_stream, frozenset(DONE)),
    ]
    bodies = {name: body for name, body in HOSTILE_BODIES.items() if not names or name in names}
    return [
        *(Attack(name, _sending(body), frozenset(body.statuses)) for name, body in bodies.items()),
        *(attack for attack in found if not names or attack.name in names),
    ]


def _sending(body: HostileBody) -> Perform:
    more = () if body.coding is None else (f"content-encoding: {body.coding}",)

    content = body.make()

    async def perform(server: Server) -> int | None:
        async with server.connection() as (reader, writer):
            with contextlib.suppress(ConnectionError):  # it may be refused on the way
                writer.write(server.head(body.path, len(content), *more))
                writer.write(content)
                await writer.drain()
            return await _status(reader)

    return perform


def _flooding(start: bytes | None) -> Perform:
    """start: of a header; None: the first line is what does not end."""

    async def perform(server: Server) -> int | None:
        async with server.connection() as (reader, writer):
            writer.write(b"GET /" if start is None else b"GET /version HTTP/1.1\r\n" + server.headers + start)
            with contextlib.suppress(ConnectionError):
                for _ in range(1000):
                    writer.write(_PIECE)
                    await writer.drain()
            return await _status(reader)

    return perform


async def _dripping(server: Server) -> int | None:
    async with server.connection() as (reader, writer):
        writer.write(b"GET /version HTTP/1.1\r\n" + server.headers)
        status = asyncio.create_task(_status(reader))
        with contextlib.suppress(ConnectionError):
            for _ in range(int(_MOST_DRIPPED_S / _DRIP_S)):
                writer.write(b"x: y\r\n")
                await writer.drain()
                if (await asyncio.wait([status], timeout=_DRIP_S))[0]:
                    break
        return await status


async def _leaving_in_a_body(server: Server) -> int | None:
    async with server.connection() as (_, writer):
        writer.write(server.head("/v1/completions", 3_000_000) + b'{"prompt": "' + b"a" * 1_000_000)
        await writer.drain()
        return None


async def _leaving_before_the_answer(server: Server) -> int | None:
    body = json.dumps({"prompt": "def f(", "max_tokens": 1000, "ignore_eos": True}).encode()
    async with server.connection() as (_, writer):
        writer.write(server.head("/v1/completions", len(body)) + body)
        await writer.drain()
        return None


async def _leaving_in_a_stream(server: Server) -> int | None:
    body = json.dumps({"prompt": "def f(", "max_tokens": 1000, "ignore_eos": True, "stream": True}).encode()
    async with server.connection() as (reader, writer):
        writer.write(server.head("/v1/completions", len(body)) + body)
        await writer.drain()
        first = await reader.readline()
        await reader.readuntil(b"\r\n\r\n")
        await reader.read(1)
        return int(first.split()[1])


async def _status(reader: asyncio.StreamReader) -> int | None:
    """Of an answer that is read to its end; None where there is none."""
    answer = bytearray()
    with contextlib.suppress(ConnectionError):
        while part := await reader.read(1 << 16):
            answer += part
    first = bytes(answer[:16]).split(b" ")
    return int(first[1]) if len(first) > 1 and first[1].isdigit() else None
