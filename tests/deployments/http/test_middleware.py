"""Each piece that stands around the routes, alone: what it lets through, adds, and makes of failures."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import (
    BodyTooLargeError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    ServeError,
)
from deployments.http import middleware
from deployments.http.authentication import AuthenticationMiddleware
from deployments.http.disclosure import DisclosureMiddleware
from deployments.http.door import ANYBODY, DoorMiddleware
from deployments.http.middleware import (
    LINGER_S,
    BodyMiddleware,
    ErrorMiddleware,
    HeadMiddleware,
    RequestIdMiddleware,
    ShapeMiddleware,
    error_shape,
    given_request_id,
    openai_error,
    request_id,
    set_error_shape,
)
from deployments.http.observation import ObservationMiddleware
from monitoring.tracing import OFF
from tests.deployments.http.test_bodies import Connection
from tests.support.accounts import asking
from tests.support.gatekeepers import Keyring
from tests.support.virtual_time import VirtualTimeLoop
from tests.support.waiting import settle


def nobody(*_: object) -> Any:
    raise AssertionError("nobody is asked")


AROUND: dict[str, Callable[[ASGIApp], ASGIApp]] = {
    "authentication": lambda app: AuthenticationMiddleware(app, Keyring(), nobody),
    "body": lambda app: BodyMiddleware(app, 1, 1.0, nobody),
    "disclosure": DisclosureMiddleware,
    "door": lambda app: DoorMiddleware(app, ANYBODY, nobody),
    "error": lambda app: ErrorMiddleware(app, nobody),
    "head": HeadMiddleware,
    "observation": lambda app: ObservationMiddleware(app, OFF, nobody),
    "request id": RequestIdMiddleware,
    "shape": lambda app: ShapeMiddleware(app, nobody),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("fails", [False, True])
async def test_what_is_no_request_passes_as_it_is(around: str, fails: bool) -> None:
    passed: list[object] = []

    async def app(*given: object) -> None:
        passed.extend(given)
        if fails:
            raise KeyError("the application does not start")

    scope = {"type": "lifespan"}
    call = AROUND[around](app)(scope, nobody, nobody)
    if fails:
        with pytest.raises(KeyError):
            await call
    else:
        await call
    assert passed == [scope, nobody, nobody]
    assert scope == {"type": "lifespan"}


def request(method: str = "POST", **headers: str) -> Scope:
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": method, "path": "/v1/completions", "headers": fields}


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
    await send({"type": "http.response.body", "body": b"{}"})


async def told(app: ASGIApp, scope: Scope, *messages: Message) -> list[Message]:
    """What is sent where so much comes and then nothing."""
    sent, coming = list[Message](), list(messages)

    async def receive() -> Message:
        if coming:
            return coming.pop(0)
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def test_who_says_nothing_of_the_shape_of_errors_gets_openais() -> None:
    scope = request()
    assert error_shape(scope) is openai_error
    named: list[tuple[str, str]] = []

    def by_path(method: str, path: str) -> Any:
        named.append((method, path))
        return own

    def own(error: ServeError) -> tuple[int, Any]:
        return 418, error.message

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert error_shape(scope) is own
        set_error_shape(scope, openai_error)
        assert error_shape(scope) is openai_error

    asyncio.run(told(ShapeMiddleware(app, by_path), scope))
    assert named == [("POST", "/v1/completions")]


async def test_a_failure_is_answered_in_the_shape_that_the_route_chose_and_posts_are_told_of() -> None:
    refused: list[ServeError] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        set_error_shape(scope, lambda error: (418, {"said": error.message}))
        raise OverloadedError("full", retry_after=2.5, headers={"x-more": "1"})

    for method, times in (("GET", 0), ("POST", 1), ("DELETE", 1)):
        start, body = await told(ErrorMiddleware(app, refused.append), request(method))
        assert (start["status"], json.loads(body["body"])) == (418, {"said": "full"})
        fields = Headers(raw=start["headers"])
        assert (fields["retry-after"], fields["x-more"], fields["content-type"]) == ("3", "1", "application/json")
        assert [error.message for error in refused] == ["full"] * times


async def test_what_fails_behind_the_head_of_an_answer_is_raised_as_it_is() -> None:
    """Nobody could be told of it in the answer, nor is it a refusal."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("x")

    async def send(message: Message) -> None:
        sent.append(message)

    with asking() as record, pytest.raises(KeyError):
        await ErrorMiddleware(app, nobody)({**request(), "starcoder.request_id": "r-1"}, nobody, send)
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert isinstance(record.error, InternalError)
    assert "r-1" in record.error.message


@pytest.mark.parametrize("given", ["", "r-1", "a" * 128, "a" * 129, "Ab0._:/+=-", "no good", "größe"])
@pytest.mark.parametrize("answer", [True, False])
async def test_a_request_has_an_id_its_clients_if_that_will_do(given: str, answer: bool) -> None:
    scope = request(**({"x_request_id": given} if given else {}))
    start, body = await told(RequestIdMiddleware(answers, answer), scope)
    assert body == {"type": "http.response.body", "body": b"{}"}
    identifier = request_id(scope)
    if 0 < len(given) <= 128 and given not in ("no good", "größe"):
        assert (identifier, given_request_id(scope)) == (given, None)
    else:
        assert identifier is not None
        assert identifier.isalnum()
        kept = Headers(scope=scope).get("x-request-id", "")[:128]  # as HTTP reads it
        assert given_request_id(scope) == (kept or None)
    fields = Headers(raw=start["headers"])
    assert fields["x-own"] == "1"
    assert fields.get("x-request-id") == (identifier if answer else None)


@pytest.mark.parametrize("method", ["HEAD", "GET", "POST"])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_head_is_answered_as_get_would_be_without_its_body(method: str, fails: bool) -> None:
    scope, seen, sent = request(method), list[str](), list[tuple[str, Message]]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["method"])
        if fails:
            raise KeyError("x")
        await answers(scope, receive, send)

    async def send(message: Message) -> None:
        sent.append((scope["method"], message))

    call = HeadMiddleware(app)(scope, nobody, send)
    if fails:
        with pytest.raises(KeyError):
            await call
    else:
        await call
        (one, start), (other, body) = sent
        assert (one, other) == (method, method)
        assert start == {"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]}
        assert body == {"type": "http.response.body", "body": b"" if method == "HEAD" else b"{}"}
    assert seen == ["GET" if method == "HEAD" else method]
    assert scope["method"] == method


def part(body: bytes, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.parametrize(
    ("declared", "parts", "taken"),
    [
        ("", [part(b"x" * 9, True), part(b"y")], True),
        ("", [part(b"x" * 9, True), part(b"yz")], False),
        ("10", [part(b"x" * 10)], True),
        ("11", [], False),
        ("9" * 18, [], False),
        ("0" * 19, [], False),
        ("9" * 5000, [], False),
        ("0" * 18, [part(b"x")], True),
        ("-1", [part(b"x")], True),
        ("²", [part(b"x")], True),
    ],
)
async def test_a_body_has_a_limit(declared: str, parts: list[Message], taken: bool) -> None:
    """By what it says, before any of it is read, and by what it is."""
    bodies, refused = list[bytes](), list[ServeError]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        bodies.append((await receive())["body"])
        await answers(scope, receive, send)

    scope = request(**({"content_length": declared} if declared else {}))
    with asking() as record:
        end = [] if parts else [part(b"the rest", True), part(b"")]
        sent = await told(BodyMiddleware(app, 10, 5.0, refused.append), scope, *parts, *end)
    assert record.received == taken
    if taken:
        assert (bodies, refused) == ([b"".join(one["body"] for one in parts)], [])
        assert sent[0]["status"] == 200
        return
    assert (bodies, [type(error) for error in refused]) == ([], [BodyTooLargeError])
    assert record.error is refused[0]
    start, body, end_of_it = sent
    assert start["status"] == 413
    assert Headers(raw=start["headers"])["connection"] == "close"
    assert b"limit of 10 bytes" in body["body"]
    assert (body["more_body"], end_of_it) == (True, {"type": "http.response.body", "body": b"", "more_body": False})


@pytest.mark.parametrize(("more", "seconds"), [([], LINGER_S), ([part(b"x", True)] * 50 + [part(b"")], 0.0)])
def test_what_is_on_its_way_behind_a_refusal_is_read_for_a_while(more: list[Message], seconds: float) -> None:
    """Until it ends, or so long."""

    async def run() -> float:
        too_large = part(b"x" * 11, True)
        sent = await told(BodyMiddleware(nobody, 10, 5.0, lambda error: None), request(), too_large, *more)
        assert len(sent) == 3
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(run()) == pytest.approx(seconds)


def client_of(*messages: Message) -> Connection:
    """Sends its body and `messages`, and leaves when it is told to."""
    return Connection(part(b"{}"), *messages)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_client_that_leaves_ends_its_route_quietly(fails: bool) -> None:
    """Whatever the route makes of that; what else comes on the connection ends nothing."""
    client, ended = client_of(part(b"behind the body")), list[str]()

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await settle()
        assert not ended
        client.left.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            if fails:
                raise KeyError("what it works with was taken away") from None
            raise

    await BodyMiddleware(route, 10, 5.0, nobody)(request(), client, nobody)
    assert ended == ["cancelled"]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0, "what comes after it in this task is not ended"


async def test_what_fails_or_is_cancelled_by_others_while_the_client_is_there_is_raised() -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("x")

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    with pytest.raises(KeyError):
        await BodyMiddleware(fails, 10, 5.0, nobody)(request(), client_of(), nobody)
    both = client_of()
    for client in (client_of(), both):
        task = asyncio.ensure_future(BodyMiddleware(waits, 10, 5.0, nobody)(request(), client, nobody))
        await settle()
        task.cancel()
        if client is both:
            client.left.set()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
    await settle()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others, "nobody watches a connection whose request is over"


async def test_a_connection_that_cannot_be_read_has_lost_its_client() -> None:
    async def broken() -> Message:
        raise RuntimeError("the call was ended")

    assert await middleware._next(broken) == {"type": "http.disconnect"}
    await BodyMiddleware(nobody, 10, 5.0, nobody)(request(), broken, nobody)


async def test_a_coded_body_is_one_without_a_coding_for_its_route() -> None:
    coded, seen = zlib.compress(b"{} "), list[tuple[Any, ...]]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        fields = Headers(scope=scope)
        seen.append(((await receive())["body"], fields.get("content-encoding"), fields["content-length"]))

    body = BodyMiddleware(app, 20, 5.0, nobody)
    await told(body, request(content_encoding="deflate", content_length=str(len(coded))), part(coded))
    await told(body, request(content_encoding="deflate", content_length="0"), part(b""))
    assert seen == [(b"{} ", None, "3"), (b"", "deflate", "0")]
    with pytest.raises(InvalidRequestError):
        await told(body, request(content_encoding="br", content_length="2"), part(b"{}"))
