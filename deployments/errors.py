"""Errors as clients see them: OpenAI's error object with its HTTP status.

They are raised in the ingress and in the replica alike, so they pickle, and `unwrap` finds them again inside
what a Serve handle raises. No Ray is imported here: its exceptions are known by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from model.request import Failure

_MAX_SHOWN_CHARS = 60
_MAX_MESSAGE_CHARS = 1000
_MAX_PARAM_CHARS = 200


def shown(value: object) -> str:
    """What a client sent, for a message to it: quoted, and no more of it than tells what it is."""
    return _clipped(repr(value if not isinstance(value, str) else value[: _MAX_SHOWN_CHARS + 1]), _MAX_SHOWN_CHARS)


def words_of(error: BaseException) -> str:
    """What it says, or its name where it says nothing, as httpx's time-outs."""
    return str(error) or type(error).__name__


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "…"


class ServeError(Exception):
    """A failure with an HTTP status and OpenAI's error object.

    message, param: cut where they are very long, since they end in answers, logs and traces.

    status: HTTP status; type, code, param: fields of the error object.
    retry_after: seconds until another attempt makes sense, sent as `Retry-After`.
    headers: of the answer, on top of that and of the class's own; names in lower case.
    """

    default_status: ClassVar[int] = 500
    default_type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None
    default_headers: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        type: str | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        message = _clipped(message, _MAX_MESSAGE_CHARS)
        super().__init__(message)
        self.message = message
        self.status = self.default_status if status is None else status
        self.type = self.default_type if type is None else type
        self.code = self.default_code if code is None else code
        self.param = None if param is None else _clipped(param, _MAX_PARAM_CHARS)
        self.retry_after = retry_after
        self.headers = dict(headers or {})

    @property
    def retry_after_header(self) -> str | None:
        """The value of `Retry-After`, in whole seconds; None where another attempt makes no sense."""
        return None if self.retry_after is None else str(max(1, math.ceil(self.retry_after)))

    def response_headers(self) -> dict[str, str]:
        """All that the answer has because of this error."""
        seconds = self.retry_after_header
        return {**self.default_headers, **({} if seconds is None else {"retry-after": seconds}), **self.headers}

    def __reduce__(self) -> tuple[Callable[..., ServeError], tuple[Any, ...]]:
        fields = {name: getattr(self, name) for name in ("status", "type", "code", "param", "retry_after", "headers")}
        return _rebuild, (self.__class__, self.message, fields)

    def body(self) -> dict[str, dict[str, Any]]:
        """OpenAI's error object."""
        return {
            "error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code},
        }


def _rebuild(cls: type[ServeError], message: str, fields: dict[str, Any]) -> ServeError:
    return cls(message, **fields)


class InvalidRequestError(ServeError):
    default_status = 400
    default_type = "invalid_request_error"


class ContextLengthError(InvalidRequestError):
    default_code = "context_length_exceeded"


class NotFoundError(InvalidRequestError):
    default_status = 404
    default_code = "not_found"


class ModelNotFoundError(NotFoundError):
    default_code = "model_not_found"


class MethodNotAllowedError(InvalidRequestError):
    default_status = 405
    default_code = "method_not_allowed"


class BodyTooLargeError(InvalidRequestError):
    default_status = 413
    default_code = "request_too_large"


class UnauthorizedError(InvalidRequestError):
    """No key, or none that is known."""

    default_status = 401
    default_code = "invalid_api_key"
    default_headers: ClassVar[Mapping[str, str]] = {"www-authenticate": "Bearer"}


class ForbiddenError(InvalidRequestError):
    """The key is known, and may not do this."""

    default_status = 403
    default_code = "insufficient_permissions"


class AuthUnavailableError(ServeError):
    """Whether the key is good cannot be told now."""

    default_status = 503
    default_code = "auth_unavailable"


class RateLimitedError(ServeError):
    """A limit a minute, or of requests at once, is used up. type: `requests` or `tokens`."""

    default_status = 429
    default_type = "requests"
    default_code = "rate_limit_exceeded"

    def response_headers(self) -> dict[str, str]:
        precise = (
            {} if self.retry_after is None else {"retry-after-ms": str(max(1, math.ceil(self.retry_after * 1000)))}
        )
        return {**precise, **super().response_headers()}


class QuotaError(ServeError):
    """The budget is used up: another attempt makes no sense, though the status is the one of a rate limit."""

    default_status = 429
    default_type = "insufficient_quota"
    default_code = "insufficient_quota"
    default_headers: ClassVar[Mapping[str, str]] = {"x-should-retry": "false"}


class MeteringUnavailableError(ServeError):
    """Whether the budget has room cannot be told now, and nothing may go beyond it."""

    default_status = 503
    default_code = "metering_unavailable"


class OverloadedError(ServeError):
    """The queue is full; the request was not started and may be sent again."""

    default_status = 429
    default_type = "rate_limit_error"
    default_code = "overloaded"


class TooLateError(OverloadedError):
    """The first token could not come as soon as it is wanted; the request was not started."""


class TooManyConnectionsError(ServeError):
    """This connection is one too many; nothing was read of it."""

    default_status = 503
    default_code = "too_many_connections"


class AttributionUnavailableError(ServeError):
    """Whether a completion repeats somebody's code cannot be told, and it may not be answered without."""

    default_status = 503
    default_code = "attribution_unavailable"


class InternalError(ServeError):
    default_code = "internal_error"


class EngineUnavailableError(ServeError):
    """The engine is starting, draining or dead; another attempt may meet a living one."""

    default_status = 503
    default_code = "engine_unavailable"


class EngineAwayError(EngineUnavailableError):
    """No engine has begun this request: there is none, or the one that was asked is about to end."""


class EngineAwaitedError(EngineAwayError):
    """There is no engine, and so many wait for one that this request may not."""


class DrainingError(ServeError):
    """The server is about to stop, and should be sent nothing more."""

    default_status = 503
    default_code = "draining"


class NodeLostError(ServeError):
    """This process is about to end, and nothing that it could wait for helps."""

    default_status = 503
    default_code = "node_lost"


class EngineGaveUpError(ServeError):
    """The engine lives, but ended this request."""


class EngineOutOfMemoryError(EngineGaveUpError):
    """Memory did not suffice for all that ran."""

    default_status = 503
    default_code = "engine_out_of_memory"


class EngineNotFiniteError(EngineGaveUpError):
    """The model computed no numbers."""

    default_code = "engine_not_finite"


def given_up(failure: Failure, retry_after: float) -> EngineGaveUpError:
    """Why the engine ended a request, for its client."""
    if failure == "not_finite":
        return EngineNotFiniteError("The model computed no numbers for this request.")
    return EngineOutOfMemoryError("The engine ran out of memory and ended this request.", retry_after=retry_after)


_BY_NAME: dict[str, Callable[[BaseException], ServeError]] = {
    "BackPressureError": lambda _: OverloadedError("Every replica's queue is full.", retry_after=1.0),
    "EngineDeadError": lambda error: EngineUnavailableError(f"The engine stopped: {error}", retry_after=5.0),
    "DeploymentUnavailableError": lambda _: EngineAwayError("The model could not be deployed.", retry_after=5.0),
    "RayActorError": lambda _: EngineUnavailableError("The replica died.", retry_after=5.0),
    "AioRpcError": lambda _: EngineUnavailableError("The connection to the replica broke.", retry_after=5.0),
    "WorkerCrashedError": lambda _: EngineUnavailableError("The replica died.", retry_after=5.0),
    "LocalRayletDiedError": lambda _: EngineUnavailableError("The replica's node died.", retry_after=5.0),
    "NodeDiedError": lambda _: EngineUnavailableError("The replica's node died.", retry_after=5.0),
    "ObjectLostError": lambda _: EngineUnavailableError("The replica died with its answer.", retry_after=5.0),
    "TimeoutError": lambda _: EngineUnavailableError("The engine did not answer in time.", retry_after=5.0),
}
"""Exceptions of other layers, by the name of the class or of one of its bases."""

_MAX_CAUSES = 8


def unwrap(error: BaseException) -> ServeError:
    """The `ServeError` inside `error`; an `InternalError` without details where there is none.

    Ray raises a class that inherits from both `RayTaskError` and the user's exception but holds that
    exception, with its attributes, in `.cause`: so the cause is looked at before the class.
    """
    for _ in range(_MAX_CAUSES):
        cause = getattr(error, "cause", None)
        if not isinstance(cause, BaseException) or cause is error:
            break
        error = cause
    if isinstance(error, ServeError):
        return error
    for base in type(error).__mro__:
        if base.__name__ in _BY_NAME:
            return _BY_NAME[base.__name__](error)
    return InternalError("The server failed to process the request. The server's log has the details.")
