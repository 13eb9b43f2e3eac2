"""A stream's head, its failures, and that what is abandoned is closed."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from deployments.api.common.given_up import check_not_given_up
from deployments.api.common.streaming import EventStream, JsonLineStream, json_line, sse
from deployments.errors import EngineUnavailableError, OverloadedError, ServeError
from deployments.http.middleware import set_error_shape
from deployments.protocol import Delta

SCOPE = {"type": "http", "method": "POST", "path": "/x"}


class Said:
    """Events of a generator, and whether it was closed. fails_at: the number of the event in whose place it fails."""

    def __init__(self, *events: bytes, fails_at: int | None = None, failure: Exception | None = None) -> None:
        self.events, self.fails_at = events, fails_at
        self.failure = failure or OverloadedError("Full.")
        self.closed = False

    async def __call__(self) -> AsyncGenerator[bytes, None]:
        try:
            for number, event in enumerate(self.events):
                if number == self.fails_at:
                    raise self.failure
                yield event
            if self.fails_at == len(self.events):
                raise self.failure
        finally:
            self.closed = True


async def nothing() -> Any:
    raise AssertionError("a stream receives nothing")


async def sent(stream: EventStream, scope: dict[str, Any] | None = None) -> list[Any]:
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    await stream({**SCOPE} if scope is None else scope, nothing, send)
    return messages


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [(EventStream, b"text/event-stream; charset=utf-8"), (JsonLineStream, b"application/x-ndjson")],
)
async def test_events_are_sent_as_they_come(kind: type[EventStream], content_type: bytes) -> None:
    said = Said(b"a", b"b", b"c")
    stream = await kind.open(said())
    assert (stream.status_code, said.closed) == (200, False)
    start, *parts = await sent(stream)
    assert (start["type"], start["status"]) == ("http.response.start", 200)
    assert dict(start["headers"]) == {
        b"cache-control": b"no-cache",
        b"x-accel-buffering": b"no",
        b"content-type": content_type,
    }
    assert parts == [
        *({"type": "http.response.body", "body": body, "more_body": True} for body in (b"a", b"b", b"c")),
        {"type": "http.response.body", "body": b"", "more_body": False},
    ]
    assert said.closed


async def test_what_fails_before_its_first_event_has_a_status_of_its_own() -> None:
    for failure in (OverloadedError("Full."), KeyError("x")):
        said = Said(b"a", fails_at=0, failure=failure)
        with pytest.raises(type(failure)):
            await EventStream.open(said())
        assert said.closed


@pytest.mark.parametrize("kind", [EventStream, JsonLineStream])
async def test_a_later_failure_is_the_last_event_in_the_routes_shape(kind: type[EventStream]) -> None:
    def shape(error: ServeError) -> tuple[int, Any]:
        return error.status, {"why": error.message}

    for scope, body in (({**SCOPE}, OverloadedError("Full.").body()), ({**SCOPE}, {"why": "Full."})):
        if "why" in body:
            set_error_shape(scope, shape)
        said = Said(b"a", b"b", fails_at=1)
        messages = await sent(await kind.open(said()), scope)
        bodies = [message["body"] for message in messages[1:]]
        assert bodies == [b"a", sse(body) if kind is EventStream else json_line(body), b""]
        assert [message["more_body"] for message in messages[1:]] == [True, True, False]
        assert said.closed


async def test_an_abandoned_stream_is_closed() -> None:
    said = Said(b"a", b"b")
    stream = await EventStream.open(said())

    async def gone(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the client has gone")

    with pytest.raises(OSError, match="gone"):
        await stream({**SCOPE}, nothing, gone)
    assert said.closed


def test_an_event_is_one_line_of_compact_json() -> None:
    data = {"a": [1, "\n\u6f22"], "content": ""}
    assert sse(data) == b"data: " + json_line(data)[:-1] + b"\n\n"
    assert json_line(data) == json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def test_what_was_given_up_may_be_tried_again_soon() -> None:
    for reason in (None, "stop", "length"):
        check_not_given_up(Delta(index=0, finish_reason=reason))  # type: ignore[arg-type]
    with pytest.raises(EngineUnavailableError) as refused:
        check_not_given_up(Delta(index=0, finish_reason="abort"))
    assert refused.value.message == "The engine gave up this request."
    assert (refused.value.retry_after_header, refused.value.status) == ("1", 503)
