"""How many tokens a completion may have, and must have."""

from __future__ import annotations

from deployments.api.parameters.bounds import INT32_MAX, refuse_if
from deployments.api.parameters.parameter import Bounds, Parameter

MAX_TOKENS: Parameter[int] = Parameter(
    "max_tokens",
    description="Most tokens to generate for each completion.",
    ge=0,
    le=INT32_MAX,
    shared=False,
    # The engine runs the prompt for 0 too, and the API drops the token.
    translate=lambda value, bounds: {"max_tokens": max(value, 1)},
)


def _at_most_max_tokens(value: int, bounds: Bounds) -> None:
    most = bounds.max_tokens
    refuse_if(value > most, "min_tokens", f"{value} is more than max_tokens ({most})")


MIN_TOKENS: Parameter[int] = Parameter(
    "min_tokens",
    description="No end-of-text or stop token before this many tokens.",
    ge=0,
    le=INT32_MAX,
    check=_at_most_max_tokens,
)
