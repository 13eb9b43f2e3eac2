"""From which tokens one is drawn."""

from __future__ import annotations

from deployments.api.parameters.bounds import INT32_MAX
from deployments.api.parameters.parameter import Bounds, Parameter

TOP_K: Parameter[int] = Parameter(
    "top_k",
    description="Sample from the k most likely tokens; 0 or -1: from all.",
    brief="Sample from the k most likely tokens.",
    ge=-1,
    le=INT32_MAX,
    translate=lambda value, bounds: {"top_k": min(max(value, 0), bounds.vocab_size)},
)


def _nucleus(value: float, bounds: Bounds) -> dict[str, object]:
    # The smallest nucleus is the most likely token alone.
    return {"top_p": value} if value else {"top_p": 1.0, "top_k": 1}


TOP_P: Parameter[float] = Parameter(
    "top_p",
    description="Sample from the fewest tokens that hold this share of probability.",
    brief="Sample from the fewest tokens with this probability.",
    ge=0,
    le=1,
    translate=_nucleus,
)
MIN_P: Parameter[float] = Parameter(
    "min_p",
    description="Drop tokens less likely than this share of the most likely one.",
    ge=0,
    le=1,
)
