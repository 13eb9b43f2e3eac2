"""Reads HTTP/1.1 responses and server-sent events at little cost: the client must not be what is measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_HEAD, _SIZE, _DATA, _END_OF_DATA, _TRAILER, _LENGTH = range(6)
DONE = b"data: [DONE]"


class ResponseReader:
    """Of one connection, whose responses come one after the other.

    status: of the one that is being read. last: the server answers nothing more on this connection.
    """

    def __init__(self) -> None:
        self.status = 0
        self.last = False
        self._rest = b""
        self._state = _HEAD
        self._left = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What of a body is in it, and whether that body has ended, behind which nothing may come.

        Raises ValueError for what is no response.
        """
        if self._rest:
            data = self._rest + data
        parts, at, ended = [], 0, False
        while not ended:
            if self._state in (_DATA, _LENGTH):
                part = data[at : at + self._left]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                if self._left:
                    break
                ended = self._state == _LENGTH
                self._state = _HEAD if ended else _END_OF_DATA
                continue
            mark = b"\r\n\r\n" if self._state == _HEAD else b"\r\n"
            end = data.find(mark, at)
            if end < 0:
                break
            line, at = data[at:end], end + len(mark)
            ended = self._take(line)
        self._rest = data[at:]
        if ended and self._rest:
            raise ValueError("more came than was asked for")
        return b"".join(parts), ended

    def _take(self, line: bytes) -> bool:
        """A head, or a line between chunks; whether the body has ended with it."""
        if self._state == _HEAD:
            return self._head(line)
        if self._state == _SIZE:
            self._left = int(line.partition(b";")[0], 16)
            self._state = _DATA if self._left else _TRAILER
        elif self._state == _END_OF_DATA:
            if line:
                raise ValueError("a chunk is longer than it said")
            self._state = _SIZE
        elif not line:
            self._state = _HEAD
            return True
        return False

    def _head(self, head: bytes) -> bool:
        first, _, rest = head.partition(b"\r\n")
        self.status = int(first.split(b" ", 2)[1])
        fields = {name.strip().lower(): value.strip() for name, _, value in _fields(rest)}
        self.last = fields.get(b"connection", b"").lower() == b"close"
        if b"chunked" in fields.get(b"transfer-encoding", b""):
            self._state = _SIZE
            return False
        self._left = int(fields.get(b"content-length", b"0"))
        self._state = _LENGTH if self._left else _HEAD
        return not self._left


def _fields(lines: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    return (line.partition(b":") for line in lines.split(b"\r\n"))


def events(pieces: Iterable[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """The events of a stream whose pieces came at these times, each when it was complete; `[DONE]` is none."""
    rest = b""
    for at, piece in pieces:
        *whole, rest = (rest + piece).split(b"\n\n")
        for event in whole:
            if event and event != DONE:
                yield at, event
