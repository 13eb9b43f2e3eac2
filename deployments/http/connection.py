"""One HTTP connection: what a client may cost before its request is one, and how long it may take over all of it.

uvicorn's protocol over httptools bounds neither a request's head, nor the time that it takes or that its answer is left
unread, nor how many connections there are. This does, and changes two things that uvicorn does to HTTP/1.0 and to
failures of its own: chunks, and answers in plain text.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, ClassVar

from starlette.datastructures import Headers
from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from deployments.errors import InvalidRequestError, ServeError, TooManyConnectionsError
from deployments.http import arrival
from deployments.http.middleware import LINGER_S, error_response
from deployments.http.refusals import Refusals
from deployments.http.room import room_of
from deployments.http.slow_reader import ReaderWatch
from deployments.limits import ApiLimits

_FIELD_FRAME = len(b": \r\n")


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a limit on each request's head (431, for its first line 414) and a time for it (408).

    `limits` says both, and how long an idle connection is kept; `refusals` hears of each client that they shut out.
    `fronted`: only a front of ours connects, which says when each request came (`arrival`); else this says it.
    What follows a head without being part of a body, as trailers do, has the head's limit too. There are no WebSockets
    here: an upgrade to one is answered as a request.
    A connection whose answer is out before its request is whole is closed: it would have to be read to its end.
    One whose client does not take its answer is cut, which ends the request as that of a client that leaves.
    Where there are as many connections as may be, the one that has waited longest for its next request makes room for a
    new one; if none waits, the new one is turned away (503).
    """

    limits: ClassVar[ApiLimits] = ApiLimits()
    refusals: ClassVar[Refusals] = Refusals()
    fronted: ClassVar[bool] = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ws_protocol_class = None
        self.timeout_keep_alive = self.limits.keep_alive_timeout_s
        self._deadline: asyncio.TimerHandle | None = None
        self._in_head = False
        self._idle = True
        self._without_progress = 0
        self._refusal: InvalidRequestError | None = None
        self._refused = False
        self._room = room_of(self.server_state)
        self._reader: ReaderWatch

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._reader = ReaderWatch(transport, self.limits.write_timeout_s, self._cut)
        if len(self.connections) > self.limits.max_connections and not self._room.make():
            self._turn_away()
        else:
            self._set_deadline(self.limits.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_deadline()
        self._reader.end()
        self._room.gone(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader.begin()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._reader.end()

    def data_received(self, data: bytes) -> None:
        if self._refused or self.transport.is_closing():
            return
        if self._idle:
            # From the first byte on, whatever it is: line ends alone would keep a connection open for ever.
            self._idle = False
            self._room.busy(self)
            self._set_deadline(self.limits.head_timeout_s)
        self._without_progress += len(data)
        super().data_received(data)
        if self._without_progress > self.limits.max_head_bytes:
            self._refuse(self._too_large())
        elif self._in_head and self._deadline is None:
            self._set_deadline(self.limits.head_timeout_s)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._without_progress = True, 0

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + _FIELD_FRAME for name, value in self.headers)
        if size > self.limits.max_head_bytes:  # all of it came in one piece
            self._refusal = self._too_large()
            raise self._refusal  # the parser stops, and calls for `send_400_response`
        arrival.say(self.headers, self.fronted)
        self._in_head, self._without_progress = False, 0
        self._unset_deadline()
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            _end_by_closing(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._without_progress = 0
        # Every answer begins when its body has been read, or refused: what comes then would fill Serve's queue.
        if not self.cycle.response_started:
            super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self.cycle.response_complete:  # it was answered before it was whole, and now it is
            self.cycle.more_body = False
            self._rest()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._reader.begin()  # what is left of the answer has to be read, too
            return
        if not self.cycle.response_complete:
            return
        if self.cycle.more_body:
            self._set_deadline(LINGER_S)
        else:
            self._rest()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or InvalidRequestError(msg, code="invalid_http"))

    def timeout_keep_alive_handler(self) -> None:
        if not self.transport.is_closing():
            self._close()

    def leave(self) -> None:
        """Make room for another connection, at once."""
        self.connections.discard(self)
        self.transport.abort()

    def _turn_away(self) -> None:
        # It counts no longer: who comes next may find room.
        self.connections.discard(self)
        self._refuse(TooManyConnectionsError("This server has as many connections as it can take.", retry_after=1.0))
        if not self._room.may_linger(self):
            self._close()

    def _cut(self) -> None:
        """Without what the client would not take; whoever answers it sees that it has left."""
        self._note("slow_reader")
        if (own := self.transport.get_extra_info("socket")) is not None:
            # else the kernel would keep what it holds, and offer it for minutes
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _close(self) -> None:
        """Once the client has taken what waits for it, for which it has the usual time."""
        self.transport.close()
        self._reader.begin()

    def _rest(self) -> None:
        """Between two requests, as far as bytes that have come show it."""
        self._unset_keepalive_if_required()
        if self._in_head:
            self._set_deadline(self.limits.head_timeout_s)
            return
        self._idle = True
        self._room.idle(self)
        self._unset_deadline()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _note(self, reason: str) -> None:
        self.refusals.note(reason, self.client and self.client[0])

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _set_deadline(self, seconds: float) -> None:
        self._unset_deadline()
        self._deadline = self.loop.call_later(seconds, self._on_deadline)

    def _unset_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        self._deadline = None
        if self._answering and not self._refused:
            # The head of the next request is on its way; its time begins when this one is answered.
            return
        if self._in_head and not self._refused:
            seconds = f"{self.limits.head_timeout_s:g}"
            message = f"The request's head did not arrive within {seconds} s."
            self._refuse(InvalidRequestError(message, status=408, code="request_timeout"))
        else:
            self._close()

    def _too_large(self) -> InvalidRequestError:
        most = self.limits.max_head_bytes
        if len(self.url) > most // 2:
            return InvalidRequestError(
                "The request's first line is too long.", status=414, code="request_line_too_long"
            )
        return InvalidRequestError(
            f"The request's head is larger than the limit of {most} bytes.", status=431, code="head_too_large"
        )

    def _refuse(self, error: ServeError) -> None:
        """Answer, and read no further; what is on its way is dropped for a while, see `LINGER_S`."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._note(error.code or "other")
        if self._answering:
            self._close()
            return
        response = error_response(error)
        response.headers["connection"] = "close"
        fields = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers)
        self.transport.write(STATUS_LINE[response.status_code] + fields + b"\r\n" + bytes(response.body))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._set_deadline(LINGER_S)


def _end_by_closing(cycle: RequestResponseCycle) -> None:
    """An answer of unknown length ends with the connection: HTTP/1.0 knows no chunks (RFC 9112, 6.1)."""
    send = cycle.send
    unsized = False

    async def send_unchunked(message: Message) -> None:
        nonlocal unsized
        if message["type"] == "http.response.start":
            unsized = "content-length" not in Headers(raw=message.get("headers", []))
            if unsized:
                cycle.chunked_encoding = False
        elif unsized:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)  # type: ignore[arg-type]

    cycle.send = send_unchunked  # type: ignore[assignment, method-assign]
