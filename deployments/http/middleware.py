"""What happens to every HTTP request before and after its route: request ids, errors, body limit, disconnects.

Plain ASGI: Starlette's BaseHTTPMiddleware runs the route in a task of its own, and cancelling no longer reaches it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import BodyTooLargeError, InvalidRequestError, ServeError
from deployments.http import request_record
from deployments.http.content_coding import coding_of, decoded
from deployments.http.request_record import report

REQUEST_ID_HEADER = "x-request-id"

MAX_REQUEST_ID_CHARS = 128

_SCOPE_KEY = "starcoder.request_id"
_GIVEN_KEY = "starcoder.given_request_id"
_ERROR_SHAPE_KEY = "starcoder.error_shape"
_SHAPE_OF_KEY = "starcoder.shape_of"
_SAFE_REQUEST_ID = re.compile(rf"[A-Za-z0-9._:/+=-]{{1,{MAX_REQUEST_ID_CHARS}}}", re.ASCII)

LINGER_S = 2.0
"""After a refusal what is still on its way is read and dropped for so long: a connection closed over unread data is
reset, and the client would see that instead of the answer."""


def request_id(scope: Scope) -> str | None:
    """The request's id, as `RequestIdMiddleware` set it."""
    return scope.get(_SCOPE_KEY)


def given_request_id(scope: Scope) -> str | None:
    """The client's own id where it could not be used: a proxy in front may have sent that one back."""
    return scope.get(_GIVEN_KEY)


ErrorShape = Callable[[ServeError], tuple[int, Any]]
"""How a dialect says that it failed: an HTTP status and a JSON body."""


def openai_error(error: ServeError) -> tuple[int, Any]:
    return error.status, error.body()


def set_error_shape(scope: Scope, shape: ErrorShape) -> None:
    """From here on, failures of this request are answered in `shape`."""
    scope[_ERROR_SHAPE_KEY] = shape


def error_shape(scope: Scope) -> ErrorShape:
    """What the request's route chose, or else its path; OpenAI's where nobody says."""
    shape: ErrorShape | None = scope.get(_ERROR_SHAPE_KEY)
    if shape is None and (shape_of := scope.get(_SHAPE_OF_KEY)) is not None:
        shape = shape_of(scope["method"], scope["path"])
    return shape or openai_error


def error_response(error: ServeError, shape: ErrorShape = openai_error) -> Response:
    """The error in the dialect's shape, with its headers."""
    status, body = shape(error)
    headers = error.response_headers()
    return Response(msgspec.json.encode(body), status_code=status, headers=headers, media_type="application/json")


class ShapeMiddleware:
    """Says in whose shape a request fails until a route says it. shape_of: from a method and a path."""

    def __init__(self, app: ASGIApp, shape_of: Callable[[str, str], ErrorShape]) -> None:
        self.app = app
        self.shape_of = shape_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope[_SHAPE_OF_KEY] = self.shape_of
        await self.app(scope, receive, send)


class HeadMiddleware:
    """Answers HEAD with the head of what GET answers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            scope["method"] = "HEAD"  # the server compares what is sent with what was asked
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        # In place: what watches the request looks for its route there.
        scope["method"] = "GET"
        try:
            await self.app(scope, receive, send_head)
        finally:
            scope["method"] = "HEAD"


class RequestIdMiddleware:
    """Gives every request an id, the client's if it is short and plain, and sends it back as `x-request-id`.

    answer: False leaves the response alone, behind a proxy that adds the header itself.
    """

    def __init__(self, app: ASGIApp, answer: bool = True) -> None:
        self.app = app
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        identifier = given if _SAFE_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope[_SCOPE_KEY] = identifier
        if given and given != identifier:
            scope[_GIVEN_KEY] = given[:MAX_REQUEST_ID_CHARS]

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = identifier
            await send(message)

        await self.app(scope, receive, send_with_id if self.answer else send)


class ErrorMiddleware:
    """Answers whatever is raised below it with an error object.

    on_refused: told of every POST that ends so before its answer has begun.
    """

    def __init__(self, app: ASGIApp, on_refused: Callable[[ServeError], None]) -> None:
        self.app = app
        self.on_refused = on_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except Exception as error:
            found = report(error, request_id(scope))
            if started:
                raise
            if scope["method"] == "POST":
                self.on_refused(found)
            await error_response(found, error_shape(scope))(scope, receive, send)


class BodyMiddleware:
    """Reads and decodes the body up to a limit, then watches the connection: a client that leaves ends the route.

    Routes below get the body in one piece and need no code of their own for either.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, timeout_s: float, on_refused: Callable[[ServeError], None]
    ) -> None:
        self.app = app
        self.on_refused = on_refused
        self.max_bytes = max_bytes
        self.timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.timeout_s):
                body = await self._read(scope, receive)
        except BodyTooLargeError as error:
            report(error, request_id(scope))
            await self._refuse(error, scope, receive, send)
            self.on_refused(error)
            return
        except TimeoutError:
            raise InvalidRequestError(
                f"The body did not arrive within {self.timeout_s:g} s.", status=408, code="request_timeout"
            ) from None
        if body is not None:
            request_record.received()
            await self._run(await self._decoded(body, scope), scope, receive, send)

    async def _decoded(self, body: bytes, scope: Scope) -> bytes:
        """The body without its coding, of which routes then see nothing."""
        headers = MutableHeaders(scope=scope)
        coding = coding_of(", ".join(headers.getlist("content-encoding"))) if body else None
        if coding is None:
            return body
        body = await asyncio.to_thread(decoded, body, coding, self.max_bytes)
        del headers["content-encoding"]
        headers["content-length"] = str(len(body))
        return body

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None if the client went away before its end."""
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > self.max_bytes):
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        while True:
            message = await _next(receive)
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            size += len(part)
            if size > self.max_bytes:
                raise self._too_large()
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"The body is larger than the limit of {self.max_bytes} bytes.")

    async def _refuse(self, error: ServeError, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_unfinished(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["connection"] = "close"
            else:
                message = {**message, "more_body": True}
            await send(message)

        await error_response(error, error_shape(scope))(scope, receive, send_unfinished)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while (await _next(receive)).get("more_body", False):
                    pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _run(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        route = asyncio.current_task()
        assert route is not None
        gone = asyncio.Event()
        delivered = False

        async def replay() -> dict[str, Any]:
            nonlocal delivered
            if delivered:
                await gone.wait()
                return {"type": "http.disconnect"}
            delivered = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def watch() -> None:
            while (await _next(receive))["type"] != "http.disconnect":
                pass
            gone.set()
            route.cancel()

        watcher = asyncio.create_task(watch())
        try:
            await self.app(scope, replay, send)
        except asyncio.CancelledError:
            # Ours, and no one else cancelled the task as well: nobody is there to answer.
            if not gone.is_set() or route.uncancel() > 0:
                raise
        except Exception:
            # What a route meets that is broken off is nobody's failure.
            if not gone.is_set():
                raise
            route.uncancel()
        finally:
            watcher.cancel()


async def _next(receive: Receive) -> Message:
    """What comes next. A connection that cannot be read any more has lost its client: Serve raises errors of its own
    where it has already ended the call that reads it."""
    try:
        return await receive()
    except Exception:
        return {"type": "http.disconnect"}
