"""Which log-probabilities are reported."""

from __future__ import annotations

from deployments.api.parameters.bounds import INT32_MAX, refuse_if
from deployments.api.parameters.parameter import Bounds, Parameter
from deployments.limits import ApiLimits


def check_alternatives(field: str, count: int, limits: ApiLimits) -> None:
    """Raise InvalidRequestError for more alternatives than the server reports."""
    most = limits.max_logprobs
    refuse_if(count > most, field, f"{count} is too many; at most {most} are allowed")


def _check(value: int | None, bounds: Bounds) -> None:
    check_alternatives("logprobs", value or 0, bounds.limits)


LOGPROBS: Parameter[int | None] = Parameter(
    "logprobs",
    description="Report this many alternatives for each token; at most 20 unless the server is set otherwise.",
    brief="Report this many alternatives for each token.",
    ge=0,
    le=INT32_MAX,
    shared=False,
    check=_check,
)
PROMPT_LOGPROBS: Parameter[int | None] = Parameter(
    "prompt_logprobs",
    description="Report this many alternatives for each token of the prompt.",
    ge=0,
    le=INT32_MAX,
    shared=False,
)
