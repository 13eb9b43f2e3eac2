"""Clients that keep a server busy, all in one process that does as little as possible while the clock runs.

`python -m benchmarks.stack.client FILE` reads a `Load` from its standard input. It prints a line when the measured time
begins, one when it has ended, and writes a `Found` to the file. What came is looked at only afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.stack.load import Found, Load
from benchmarks.stack.responses import ResponseReader, events
from deployments.errors import words_of

PATIENCE_S = 120.0
BEGIN, END = "begin", "end"


@dataclass
class Exchange:
    """One request and its answer. pieces: of the answer's body, with the time when each came."""

    sent: float
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    ended: float | None = None
    status: int = 0


class Connection(asyncio.Protocol):
    """Asks, and when it has its answer asks again, until it is told to `stop`.

    On a new connection where the server says that this one has had its last answer, as a proxy does that is replaced.

    answered: once, or never will be. closed: nothing comes any more.
    """

    def __init__(self, port: int, first: bytes, requests: Iterator[bytes], exchanges: list[Exchange]) -> None:
        self.error: str | None = None
        self.answered = asyncio.Event()
        self.closed = asyncio.Event()
        self._port = port
        self._following = first
        self._requests = requests
        self._exchanges = exchanges
        self._reader = ResponseReader()
        self._stopping = False
        self._transport: Any = None
        self._opening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Raises OSError."""
        self._reader = ResponseReader()
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._port)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask(self._following)

    def _ask(self, request: bytes) -> None:
        self._exchange = Exchange(time.perf_counter())
        self._exchanges.append(self._exchange)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        try:
            body, ended = self._reader.feed(data)
        except ValueError as error:
            self.error = f"no HTTP: {error}"
            self._transport.abort()
            return
        exchange = self._exchange
        if body:
            exchange.pieces.append((now, body))
        if ended:
            exchange.ended, exchange.status = now, self._reader.status
            self.answered.set()
            if self._stopping:
                self._transport.close()
                return
            self._following = next(self._requests)
            if self._reader.last:
                self._transport.close()
            else:
                self._ask(self._following)

    def connection_lost(self, error: Exception | None) -> None:
        if self._exchange.ended is None and self.error is None:
            self.error = f"the connection ended within an answer: {error or 'closed'}"
        if self.error is None and not self._stopping:
            self._opening = asyncio.create_task(self._open_again())
            return
        self._end()

    async def _open_again(self) -> None:
        try:
            await self.open()
        except OSError as error:
            self.error = f"no new connection: {error}"
            self._end()

    def _end(self) -> None:
        self.answered.set()
        self.closed.set()

    def stop(self) -> None:
        """After the answer that is being read."""
        self._stopping = True

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def run(load: Load, say: Any = print) -> Found:
    """Raises RuntimeError where the server cannot be reached or stands still."""
    exchanges: list[Exchange] = []
    requests = itertools.cycle(load.requests)
    connections: list[Connection] = []
    try:
        for first in itertools.islice(itertools.cycle(load.first), load.streams):
            connection = Connection(load.port, first, requests, exchanges)
            connections.append(connection)
            await connection.open()
        await asyncio.sleep(load.warmup)
        async with asyncio.timeout(PATIENCE_S):
            for connection in connections:
                await connection.answered.wait()
        say(BEGIN, flush=True)
        began = time.perf_counter()
        await asyncio.sleep(load.seconds)
        ended = time.perf_counter()
        say(END, flush=True)
        for connection in connections:
            connection.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                for connection in connections:
                    await connection.closed.wait()
    except (OSError, TimeoutError) as error:
        raise RuntimeError(f"the server does not answer: {words_of(error)}") from error
    finally:
        for connection in connections:
            if not connection.closed.is_set():
                connection.error = connection.error or "no end"
                connection.abort()
    found = look(load, exchanges, began, ended)
    found.failed += [connection.error for connection in connections if connection.error]
    return found


def look(load: Load, exchanges: list[Exchange], began: float, ended: float) -> Found:
    """What the exchanges say of the time between."""
    found = Found(ended - began)
    for exchange in exchanges:
        if exchange.status != 200:
            if exchange.ended is not None:
                text = b"".join(piece for _, piece in exchange.pieces)
                found.failed.append(f"{exchange.status}: {text[:200].decode(errors='replace')}")
            continue
        first: float | None = exchange.pieces[0][0] if exchange.pieces else None
        if load.kind == "stream":
            first = _look_at_events(load, exchange, began, ended, found)
        if first is None:
            continue
        inside = exchange.ended is not None and began <= exchange.ended < ended
        found.requests += inside
        if began <= exchange.sent < ended:
            found.ttft.append(first - exchange.sent)
            found.e2el.append((exchange.ended or 0.0) - exchange.sent)
        if load.kind == "whole" and inside:
            answer = msgspec.json.decode(b"".join(piece for _, piece in exchange.pieces))
            found.tokens += answer["usage"]["completion_tokens"]
    return found


def _look_at_events(load: Load, exchange: Exchange, began: float, ended: float, found: Found) -> float | None:
    """When the first text came; None where the request failed, which counts as that and nowhere else."""
    updates: list[tuple[float, int]] = []
    usage = reason = None
    characters = 0
    for at, event in events(exchange.pieces):
        said = msgspec.json.decode(event.removeprefix(b"data:"))
        if "error" in said:
            found.failed.append(str(said["error"]))
            return None
        usage = said.get("usage") or usage
        for choice in said["choices"]:
            reason = choice.get("finish_reason") or reason
            if choice["text"]:
                characters += len(choice["text"])
                if updates and updates[-1][0] == at:  # a reader sees both at once
                    updates.pop()
                updates.append((at, characters))
    wrong, tokens = _tokens(load, [total for _, total in updates], usage, reason)
    if wrong:
        found.failed.append(wrong)
        return None
    last, before = None, 0
    for (at, _), total in zip(updates, tokens, strict=True):
        if began <= at < ended:
            found.updates += 1
            found.tokens += total - before
            if last is not None:
                found.gaps.append(at - last)
        last, before = at, total
    return updates[0][0]


def _tokens(load: Load, characters: list[int], usage: Any, reason: str | None) -> tuple[str | None, list[int]]:
    """What is wrong with an answer, and how many tokens had come after each update that ended so many characters.

    Where the text is not known before, the server's count is spread evenly over the updates.
    """
    if not characters or usage is None:
        return f"{len(characters)} updates came, and the server says {usage}", []
    count = usage["completion_tokens"]
    if not load.ends:
        wrong = None if reason == "length" else f"{count} tokens came, and the answer ended by {reason!r}"
        return wrong, [count * number // len(characters) for number in range(1, len(characters) + 1)]
    tokens = [bisect_left(load.ends, total) + 1 for total in characters]
    right = count == tokens[-1] and load.ends[tokens[-1] - 1] == characters[-1]
    came = f"{tokens[-1]} tokens with {characters[-1]} characters came, and the server says {usage}"
    return None if right else came, tokens


def main() -> None:
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    found = asyncio.run(run(load))
    # Megabytes, of which a print would lose the end: where uvloop has run, a pipe takes no more than it has room for.
    Path(sys.argv[1]).write_bytes(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
