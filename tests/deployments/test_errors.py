"""Errors by themselves: what each of them is for a client, how they travel, and what they are found in."""

from __future__ import annotations

import pickle

import pytest

from deployments import errors
from deployments.errors import (
    EngineAwayError,
    EngineNotFiniteError,
    EngineOutOfMemoryError,
    EngineUnavailableError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    RateLimitedError,
    ServeError,
    UnauthorizedError,
    given_up,
    shown,
    unwrap,
    words_of,
)

KINDS = {
    "ServeError": (500, "server_error", None),
    "InvalidRequestError": (400, "invalid_request_error", None),
    "ContextLengthError": (400, "invalid_request_error", "context_length_exceeded"),
    "NotFoundError": (404, "invalid_request_error", "not_found"),
    "ModelNotFoundError": (404, "invalid_request_error", "model_not_found"),
    "MethodNotAllowedError": (405, "invalid_request_error", "method_not_allowed"),
    "BodyTooLargeError": (413, "invalid_request_error", "request_too_large"),
    "UnauthorizedError": (401, "invalid_request_error", "invalid_api_key"),
    "ForbiddenError": (403, "invalid_request_error", "insufficient_permissions"),
    "AuthUnavailableError": (503, "server_error", "auth_unavailable"),
    "RateLimitedError": (429, "requests", "rate_limit_exceeded"),
    "QuotaError": (429, "insufficient_quota", "insufficient_quota"),
    "MeteringUnavailableError": (503, "server_error", "metering_unavailable"),
    "OverloadedError": (429, "rate_limit_error", "overloaded"),
    "TooLateError": (429, "rate_limit_error", "overloaded"),
    "TooManyConnectionsError": (503, "server_error", "too_many_connections"),
    "AttributionUnavailableError": (503, "server_error", "attribution_unavailable"),
    "InternalError": (500, "server_error", "internal_error"),
    "EngineUnavailableError": (503, "server_error", "engine_unavailable"),
    "EngineAwayError": (503, "server_error", "engine_unavailable"),
    "EngineAwaitedError": (503, "server_error", "engine_unavailable"),
    "DrainingError": (503, "server_error", "draining"),
    "NodeLostError": (503, "server_error", "node_lost"),
    "EngineGaveUpError": (500, "server_error", None),
    "EngineOutOfMemoryError": (503, "server_error", "engine_out_of_memory"),
    "EngineNotFiniteError": (500, "server_error", "engine_not_finite"),
}
"""Status, type and code: of the API, which clients tell errors by."""


def test_clients_tell_errors_by_these() -> None:
    kinds = {
        name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, ServeError)
    }
    made = {name: kind("why") for name, kind in kinds.items()}
    assert {name: (error.status, error.type, error.code) for name, error in made.items()} == KINDS
    assert {name for name, error in made.items() if error.response_headers()} == {"UnauthorizedError", "QuotaError"}


def test_what_is_said_of_one_goes_before_what_is_said_of_its_kind() -> None:
    error = InvalidRequestError(
        "why", status=418, type="t", code="c", param="p", retry_after=1.2, headers={"x-a": "b", "retry-after": "9"}
    )
    assert (error.status, error.retry_after_header) == (418, "2")
    assert error.body() == {"error": {"message": "why", "type": "t", "param": "p", "code": "c"}}
    assert str(error) == "why"
    assert error.response_headers() == {"x-a": "b", "retry-after": "9"}
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), vars(again)) == (InvalidRequestError, vars(error))


@pytest.mark.parametrize(
    ("seconds", "header", "precise"),
    [(None, None, None), (0.0, "1", "1"), (0.0011, "1", "2"), (1.0, "1", "1000"), (2.5, "3", "2500")],
)
def test_another_attempt_makes_sense_no_sooner_than_it_does(
    seconds: float | None, header: str | None, precise: str | None
) -> None:
    headers = {name: value for name, value in (("retry-after", header), ("retry-after-ms", precise)) if value}
    assert RateLimitedError("why", retry_after=seconds).response_headers() == headers
    headers.pop("retry-after-ms", None)
    assert OverloadedError("why", retry_after=seconds).response_headers() == headers
    assert UnauthorizedError("why", retry_after=seconds).response_headers() == {"www-authenticate": "Bearer", **headers}


@pytest.mark.parametrize(
    ("message", "param", "told"),
    [
        ("m" * 1000, "p" * 200, ("m" * 1000, "p" * 200)),
        ("m" * 1001, "p" * 201, ("m" * 1000 + "…", "p" * 200 + "…")),
    ],
)
def test_what_is_very_long_is_cut(message: str, param: str, told: tuple[str, str]) -> None:
    error = ServeError(message, param=param)
    assert (error.message, error.param) == told
    assert str(error) == told[0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((5, "5"), ("a", "'a'"), ([1], "[1]"), ("a" * 58, repr("a" * 58))),
        *(("a" * 59, "'" + "a" * 59 + "…"), ("a" * 10**6, "'" + "a" * 59 + "…")),
        ([0] * 100, repr([0] * 100)[:60] + "…"),
    ],
)
def test_of_what_a_client_sent_no_more_is_shown_than_tells_what_it_is(value: object, text: str) -> None:
    assert shown(value) == text


def test_why_an_engine_gave_up() -> None:
    assert type(given_up("not_finite", 3.0)) is EngineNotFiniteError
    assert given_up("not_finite", 3.0).retry_after is None
    memory = given_up("out_of_memory", 3.0)
    assert (type(memory), memory.retry_after) == (EngineOutOfMemoryError, 3.0)


FOREIGN = {
    "BackPressureError": (OverloadedError, "queue is full", 1.0),
    "EngineDeadError": (EngineUnavailableError, "The engine stopped: why", 5.0),
    "DeploymentUnavailableError": (EngineAwayError, "not be deployed", 5.0),
    "RayActorError": (EngineUnavailableError, "The replica died", 5.0),
    "AioRpcError": (EngineUnavailableError, "connection to the replica broke", 5.0),
    "WorkerCrashedError": (EngineUnavailableError, "The replica died", 5.0),
    "LocalRayletDiedError": (EngineUnavailableError, "The replica's node died", 5.0),
    "NodeDiedError": (EngineUnavailableError, "The replica's node died", 5.0),
    "ObjectLostError": (EngineUnavailableError, "died with its answer", 5.0),
    "TimeoutError": (EngineUnavailableError, "did not answer in time", 5.0),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_other_layers_raise_is_known_by_its_name(name: str) -> None:
    kind, words, seconds = FOREIGN[name]
    raised = type(name, (Exception,), {})
    for error in (raised("why"), type("Narrower", (raised,), {})("why")):
        found = unwrap(error)
        assert (type(found), found.retry_after) == (kind, seconds)
        assert words in found.message


def test_every_name_is_known() -> None:
    assert errors._BY_NAME.keys() == FOREIGN.keys()


class Wrapped(Exception):
    """As Ray has the exception of another process."""

    def __init__(self, cause: object) -> None:
        super().__init__("wrapped")
        self.cause = cause


def test_an_error_is_found_in_what_ray_makes_of_it() -> None:
    error: BaseException = OverloadedError("why")
    assert unwrap(error) is error
    for _ in range(8):
        error = Wrapped(error)
    assert isinstance(unwrap(error), OverloadedError)
    assert isinstance(unwrap(Wrapped(error)), InternalError), "it goes on for ever, for all that is known"
    for cause in ("a text", None):
        assert isinstance(unwrap(Wrapped(cause)), InternalError)
    own = Wrapped(None)
    own.cause = own
    assert isinstance(unwrap(own), InternalError)


def test_of_what_nobody_knows_a_client_hears_nothing() -> None:
    assert "secret" not in unwrap(ValueError("secret")).message


def test_an_error_that_says_nothing_is_told_by_its_name() -> None:
    assert [words_of(error) for error in (ValueError("no such thing"), TimeoutError())] == [
        "no such thing",
        "TimeoutError",
    ]
