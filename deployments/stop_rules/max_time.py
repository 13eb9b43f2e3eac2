"""The rule `max_time`: `deployments.replica.service` ends a request that has taken its time."""

from __future__ import annotations

from pydantic import Field

from deployments.request_field import RequestField
from deployments.stop_rules.rule import StopRule

FIELD: RequestField[int | None] = RequestField(
    "max_time_ms",
    int | None,
    Field(
        default=None,
        ge=1,
        le=3_600_000,
        description="Answer with what there is after this time, counted from the request's arrival at the engine.",
    ),
)

RULE = StopRule(
    name="max_time",
    order=70,
    description="with what there is after this time, which runs from the arrival at the engine, waiting included",
    word="ran out of time",
    field=FIELD,
    finish_reason="length",
)
