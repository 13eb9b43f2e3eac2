"""What `/health` answers: for a load balancer in its status, for people and programs in its body."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from pydantic import BaseModel, Field
from starlette.responses import Response

from deployments.errors import DrainingError, EngineUnavailableError
from deployments.health import HealthReport, State
from deployments.http.request_record import report as note

RETRY_AFTER_S = 5.0


class IngressState(BaseModel):
    """A process that takes requests."""

    id: str = Field(description="Its name; `replica` in the lines of its log.")
    state: State = Field(
        description="`starting`; `ready`; `silent`: it should answer, and does not; `draining`: its node goes; "
        "`stopping`: what it has begun may end."
    )
    since: float = Field(description="Unix time at which it was started; of a ready engine, at which it was ready.")


class EngineState(IngressState):
    """One engine."""

    reason: str | None = Field(description="Why it is not ready, as far as that is known.")
    running: int = Field(description="Sequences in its batch.")
    waiting: int = Field(description="Sequences that wait for a place in the batch.")
    kv_cache_usage: float = Field(description="Share of its cache that running sequences hold, 0 to 1.")
    heartbeat_seconds: float | None = Field(description="How long its answer took.")
    version: str | None = Field(description="Of StarCoder Serve, as it runs there.")


class Health(BaseModel):
    """Engines answered a heartbeat between two of their steps."""

    status: Literal["ok", "draining", "unavailable"] = Field(
        default="ok",
        description="`ok`: at least one engine is ready; `draining`: the server is about to stop, and takes no more; "
        "`unavailable`: no engine is ready.",
    )
    running: int = Field(description="Sequences in the batches of all engines.")
    waiting: int = Field(description="Sequences that wait for a place in one.")
    kv_cache_usage: float = Field(description="Share of the cache that running sequences hold, in the fullest engine.")
    heartbeat_seconds: float | None = Field(description="Age of the newest sign of life, of the slowest engine.")
    engines: list[EngineState] = Field(description="Each, the oldest first; empty where Ray Serve does not say.")
    ingresses: list[IngressState] = Field(description="The processes that take requests, likewise.")

    @classmethod
    def of(cls, report: HealthReport) -> Health:
        return cls.model_validate(_told(report))


class NotReady(Health):
    """Beside what there is to say, the error that any other route would answer with."""

    error: dict[str, str | None] = Field(description="OpenAI's error object.")


class Live(BaseModel):
    status: Literal["ok"] = Field(default="ok", description="It answers.")


def not_ready(report: HealthReport) -> Response:
    """503: whoever asks sends its requests elsewhere, or later."""
    kind = DrainingError if report.draining else EngineUnavailableError
    error = kind(report.reason or "The engine is not healthy.", retry_after=RETRY_AFTER_S)
    note(error, None)
    status = "draining" if report.draining else "unavailable"
    body = msgspec.json.encode({"status": status, **error.body(), **_told(report)})
    return Response(body, error.status, error.response_headers(), "application/json")


def _told(report: HealthReport) -> dict[str, Any]:
    """The fields of `Health` that the report has."""
    told: dict[str, Any] = msgspec.to_builtins(report)
    return {name: value for name, value in told.items() if name in Health.model_fields}
