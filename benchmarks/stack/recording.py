"""What the real server writes, recorded for the floor to write the same."""

from __future__ import annotations

import socket

import msgspec

from benchmarks.servers import Server
from benchmarks.stack.asking import Asking, Shape
from benchmarks.stack.floor import Recorded
from benchmarks.stack.responses import DONE, ResponseReader

SLOW_MS = 20.0
ATTEMPTS = 5
TIMEOUT_S = 60.0


def record(server: Server, asking: Asking, tokens: int) -> Recorded:
    """Raises RuntimeError where even a single slow stream gets several tokens in an event."""
    whole = _body(server.port, asking.request(Shape("", "whole", 1, tokens, 0), 0, tokens))
    for _ in range(ATTEMPTS):
        body = _body(server.port, asking.request(Shape("", "stream", 1, tokens, SLOW_MS), 0, tokens))
        *events, usage, done, rest = [event + b"\n\n" for event in body.split(b"\n\n")]
        if len(events) == tokens and done.strip() == DONE and not rest.strip():
            return Recorded(events, usage + done, whole)
    raise RuntimeError(f"{len(events)} events came for {tokens} tokens at a step each {SLOW_MS:g} ms")


def _body(port: int, request: bytes) -> bytes:
    reader, parts, ended = ResponseReader(), [], False
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.sendall(request)
        while not ended and (data := connection.recv(1 << 16)):
            part, ended = reader.feed(data)
            parts.append(part)
    if reader.status != 200 or not ended:
        raise RuntimeError(f"the server answers {reader.status}: {b''.join(parts)[:200]!r}")
    return b"".join(parts)


def encode(recorded: Recorded) -> bytes:
    return msgspec.json.encode(recorded)
