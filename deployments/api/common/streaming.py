"""Server-sent events, and the promise that an abandoned stream is closed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.http.middleware import error_shape, request_id
from deployments.http.request_record import report

DONE = b"data: [DONE]\n\n"

EVENT_STREAM_CONTENT: dict[str, Any] = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "description": "One event.",
            "properties": {
                "data": {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "description": "The object above with the part that is new, an error object, or `[DONE]`.",
                }
            },
            "required": ["data"],
        }
    }
}
"""How an OpenAPI document describes a stream."""


def sse(data: Any) -> bytes:
    """One event with compact JSON: some clients look for `"content":` byte by byte."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


class EventStream(Response):
    """Writes events as they come. The first is awaited before any header is sent (see `open`).

    The generator is closed whatever happens: end, failure, or cancellation because the client went away.
    A failure after the first event becomes an event with an error object and ends the stream; there is no
    `[DONE]` after it.
    """

    media_type = "text/event-stream"
    charset = "utf-8"

    def __init__(self, first: bytes, events: AsyncGenerator[bytes, None]) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._first = first
        self._events = events

    @classmethod
    async def open(cls, events: AsyncGenerator[bytes, None]) -> EventStream:
        """Wait for the first event, so that a request that fails before it gets an HTTP status of its own."""
        try:
            return cls(await anext(events), events)
        except BaseException:
            await events.aclose()
            raise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            chunk: bytes | None = self._first
            while chunk is not None:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                chunk = await self._next(scope)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._events.aclose()

    async def _next(self, scope: Scope) -> bytes | None:
        try:
            return await anext(self._events)
        except StopAsyncIteration:
            return None
        except Exception as error:
            _, body = error_shape(scope)(report(error, request_id(scope)))
            return self.frame(body)

    @staticmethod
    def frame(data: Any) -> bytes:
        """How one object is written."""
        return sse(data)


def json_line(data: Any) -> bytes:
    return msgspec.json.encode(data) + b"\n"


class JsonLineStream(EventStream):
    """The same as newline-delimited JSON."""

    media_type = "application/x-ndjson"

    @staticmethod
    def frame(data: Any) -> bytes:
        return json_line(data)


JSON_LINES_CONTENT: dict[str, Any] = {
    "application/x-ndjson": {"schema": {"type": "string", "description": "One JSON object a line."}}
}
