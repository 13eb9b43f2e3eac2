"""Which tokens end generation."""

from __future__ import annotations

from deployments.api.parameters.bounds import check_token_ids, refuse_more
from deployments.api.parameters.parameter import Bounds, Parameter


def _check_ids(value: list[int], bounds: Bounds) -> None:
    refuse_more("stop_token_ids", len(value), bounds.limits.max_stop_strings)
    check_token_ids("stop_token_ids", value, bounds.vocab_size)


STOP_TOKEN_IDS: Parameter[list[int]] = Parameter(
    "stop_token_ids",
    description="Token ids that end generation.",
    type=list[int],
    check=_check_ids,
    translate=lambda value, bounds: {"stop_token_ids": tuple(value)},
)
IGNORE_EOS: Parameter[bool] = Parameter("ignore_eos", description="Go on past end-of-text.")
