"""Where a draw's random numbers come from."""

from __future__ import annotations

from deployments.api.parameters.bounds import INT64_MAX
from deployments.api.parameters.parameter import Parameter

# Leaves room for `seed + i` of the i-th completion in a signed 64-bit integer.
_MODULUS = 1 << 62

SEED: Parameter[int | None] = Parameter(
    "seed",
    description="The same seed gives the same text, whatever else the server is doing; on a GPU, but for tokens that "
    "are nearly equally likely.",
    brief="The same seed gives the same text.",
    ge=-INT64_MAX - 1,
    le=INT64_MAX,
    translate=lambda value, bounds: {"seed": None if value is None else value % _MODULUS},
)
