"""Request bodies: strict JSON in, one readable message out when it is not.

Python's own parser takes NaN, Infinity and half surrogate pairs, which are not JSON and would travel to the
engine; msgspec's refuses them.
"""

from __future__ import annotations

import asyncio
import difflib
import math
import re
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import islice
from typing import Any, ClassVar, Protocol

import msgspec
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from deployments.api.common.dialect import Dialect
from deployments.api.common.json_size import MAX_CONTAINERS, MAX_VALUES, has_too_many_values
from deployments.api.common.unknown_fields import UnknownField, log_once, tell, unknown_fields
from deployments.errors import InvalidRequestError, shown
from deployments.http.middleware import set_error_shape
from deployments.http.request_record import set_dialect

_LONE_SURROGATE = re.compile(
    # What it begins with is plain, so that a long body is searched for that alone.
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
_THREAD_BYTES = 16_384
"""A longer body is read off the event loop: one of small values takes about 0.3 us a byte."""

_MAX_REPORTED = 3
_MAX_COMPARED = 32
_MAX_NAME_CHARS = 32
"""Of names that were sent, so many and so long ones are compared with one that is missing."""


def _number(literal: str) -> float | int:
    """JSON knows one kind of number: 16.0 is an integer as good as 16, and some languages write it so."""
    value = float(literal)
    if not math.isfinite(value):
        raise msgspec.ValidationError("Number out of range")
    return int(value) if value.is_integer() else value


_DECODER = msgspec.json.Decoder(float_hook=_number)


def decode_json(body: bytes) -> Any:
    """Parse a JSON body; raise InvalidRequestError with the reason where it is not strict JSON."""
    if not body:
        raise InvalidRequestError("The request has no body; send a JSON object.", code="invalid_json")
    if has_too_many_values(body):
        raise InvalidRequestError(
            f"The body has too many values: more than {MAX_CONTAINERS} objects and lists, or than {MAX_VALUES} strings "
            "and numbers.",
            code="too_many_values",
        )
    try:
        return _DECODER.decode(body)
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"The body is not valid UTF-8: {_where_it_is_none(body, error)}.", code="invalid_json"
        ) from None
    except RecursionError:
        raise InvalidRequestError("The body is nested too deeply.", code="invalid_json") from None
    except msgspec.MsgspecError as error:
        reason = str(error)
        if _LONE_SURROGATE.search(body):
            reason = "a string holds half of a surrogate pair (\\ud800 to \\udfff), which is not text"
        raise InvalidRequestError(f"The body is not valid JSON: {reason}.", code="invalid_json") from None


def _where_it_is_none(body: bytes, error: UnicodeDecodeError) -> str:
    """What is wrong, and at which byte of the body: the decoder counts in the string that it reads."""
    try:
        body.decode()
    except UnicodeDecodeError as whole:
        error = whole
    return f"{error.reason} at byte {error.start}"


def check_content_type(content_type: str | None) -> None:
    """Refuse bodies that a web page of another origin could send without asking (forms, plain text)."""
    essence = (content_type or "").split(";")[0].strip().lower()
    if not re.fullmatch(r"application/(.+\+)?json", essence):
        given = f"not {shown(essence)}" if essence else "but there is no Content-Type header"
        raise InvalidRequestError(
            f"The body must be sent with 'Content-Type: application/json', {given}.",
            status=415,
            code="unsupported_media_type",
        )


class _BodyField(Protocol):
    """What is needed of FastAPI's own field of a body."""

    def validate(self, value: Any, values: dict[str, Any], *, loc: tuple[int | str, ...]) -> tuple[Any, list[Any]]: ...


class _JsonRequest(Request):
    async def read(self, field: _BodyField) -> list[UnknownField]:
        """Parse and validate the body, off the event loop where it is long; raise InvalidRequestError.

        Returns what it has of fields that there are not.
        """
        check_content_type(self.headers.get("content-type"))
        body = await self.body()
        if len(body) > _THREAD_BYTES:
            self._json, unknown = await asyncio.to_thread(_validated, body, field)
        else:
            self._json, unknown = _validated(body, field)
        return unknown


def _validated(body: bytes, field: _BodyField) -> tuple[Any, list[UnknownField]]:
    """An instance of the field's model: validated again, that is done at once."""
    sent = decode_json(body)
    value, errors = field.validate(sent, {}, loc=("body",))
    if errors:
        raise validation_error(errors)
    return value, unknown_fields(sent, value)


class JsonRoute(APIRoute):
    """A route whose JSON body is parsed by `decode_json`, and whose failures have the shape of its dialect.

    dialect: None: it speaks none, and fails as OpenAI does.
    """

    dialect: ClassVar[Dialect | None] = None

    @classmethod
    def of(cls, dialect: Dialect) -> type[JsonRoute]:
        """The routes of a dialect."""
        return type(cls.__name__, (cls,), {"dialect": dialect})

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        field = self.body_field

        async def handle_strictly(request: Request) -> Response:
            if self.dialect is not None:
                set_error_shape(request.scope, self.dialect.error_shape)
                set_dialect(self.dialect.name)
            request = _JsonRequest(request.scope, request.receive)
            if field is None:
                return await handle(request)
            # Read before FastAPI does, which would wrap what is raised here.
            unknown = await request.read(field)
            log_once(self.path, unknown)
            response = await handle(request)
            if unknown:
                tell(response, unknown)
            return response

        return handle_strictly


def validation_error(errors: Sequence[Any]) -> InvalidRequestError:
    """One readable error out of pydantic's list: each field, what is wrong with it and what was sent."""
    lines = [_describe(error) for error in errors[:_MAX_REPORTED]]
    if len(errors) > _MAX_REPORTED:
        lines.append(f"and {len(errors) - _MAX_REPORTED} more")
    return InvalidRequestError("; ".join(lines) + ".", param=_field(errors[0]["loc"]), code="invalid_value")


def _under_another_name(field: str, sent: Iterable[str]) -> str:
    near = difflib.get_close_matches(field, (name for name in sent if len(name) <= _MAX_NAME_CHARS), n=1)
    return f" (`{near[0]}` was sent)" if near else ""


def _field(location: Sequence[int | str]) -> str | None:
    # Where bodies of several schemas share a route, a tag in parentheses says which one was tried.
    names = [str(part) for part in location if part not in ("body", "query", "path") and str(part)[:1] != "("]
    return ".".join(names) or None


def _describe(error: dict[str, Any]) -> str:
    field = _field(error["loc"])
    problem = error["msg"].removeprefix("Value error, ")
    if field is None:
        # Either fields that contradict each other, or no object at all.
        return problem if error["type"] == "value_error" else "The body must be a JSON object"
    if error["type"] == "missing":
        sent = islice(error["input"] if isinstance(error.get("input"), dict) else (), _MAX_COMPARED)
        return f"`{field}` is required{_under_another_name(str(error['loc'][-1]), sent)}"
    problem = problem[:1].lower() + problem[1:]
    value = error.get("input")
    if isinstance(value, str | int | float) and error["type"] != "value_error":
        problem += f" (got {shown(value)})"
    return f"`{field}`: {problem}"
