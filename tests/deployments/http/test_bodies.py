"""What a route below `BodyMiddleware` gets: the body in one piece, and after that only that its client has left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import InvalidRequestError
from deployments.http.middleware import BodyMiddleware
from tests.support.virtual_time import VirtualTimeLoop


class Connection:
    """Says `messages`, one after the other, and then nothing until its client leaves."""

    def __init__(self, *messages: Message) -> None:
        self._messages = list(messages)
        self.left = asyncio.Event()

    async def __call__(self) -> Message:
        if self._messages:
            return self._messages.pop(0)
        await self.left.wait()
        return {"type": "http.disconnect"}


async def ask(app: ASGIApp, connection: Connection, most_bytes: int = 100) -> None:
    async def nowhere(message: Message) -> None: ...

    middleware = BodyMiddleware(app, most_bytes, timeout_s=10.0, on_refused=lambda error: None)
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
    await middleware(scope, connection, nowhere)


@pytest.mark.parametrize(
    ("messages", "body"),
    [
        ([{"type": "http.request"}], b""),  # ASGI: either may be missing
        ([{"type": "http.request", "body": b"x"}], b"x"),
        ([{"type": "http.request", "more_body": True}, {"type": "http.request", "body": b"x"}], b"x"),
        ([{"type": "http.request", "body": part, "more_body": part != b"c"} for part in (b"a", b"b", b"c")], b"abc"),
    ],
)
async def test_the_parts_are_one(messages: list[Message], body: bytes) -> None:
    heard: list[Message] = []

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append(await receive())

    await ask(route, Connection(*messages))
    assert heard == [{"type": "http.request", "body": body, "more_body": False}]


async def test_what_a_route_has_begun_hears_that_the_client_has_left() -> None:
    """As a stream's own task does, that ends what it has opened."""
    connection, heard = Connection({"type": "http.request", "body": b"x"}), list[Message]()
    listeners = set[asyncio.Task[Any]]()

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            heard.append(await receive())

        await receive()
        listeners.add(asyncio.create_task(listen()))
        await asyncio.sleep(0)
        assert heard == []
        connection.left.set()
        await asyncio.Event().wait()

    await ask(route, connection)
    await asyncio.gather(*listeners)
    assert heard == [{"type": "http.disconnect"}]


def test_a_body_that_does_not_come_is_waited_for_so_long() -> None:
    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("there is no body")

    async def run() -> float:
        with pytest.raises(InvalidRequestError) as error:
            await ask(route, Connection({"type": "http.request", "body": b"x", "more_body": True}))
        assert (error.value.status, error.value.code) == (408, "request_timeout")
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(run()) == pytest.approx(10.0)
