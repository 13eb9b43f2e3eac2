"""What makes single tokens more or less likely."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from deployments.api.parameters.bounds import check_token_ids, refuse_more
from deployments.api.parameters.parameter import Bounds, Parameter
from deployments.errors import shown

_MOST_BIASES = 1 << 16
_TOKEN_ID = re.compile(r"[0-9]{1,10}", re.ASCII)

REPETITION_PENALTY: Parameter[float] = Parameter(
    "repetition_penalty",
    description="Above 1, tokens of the prompt and the completion become less likely to repeat.",
    brief="Above 1, tokens are less likely to repeat.",
    ge=0.01,
    le=100,
)
FREQUENCY_PENALTY: Parameter[float] = Parameter(
    "frequency_penalty",
    description="Lowers a token by this much for each time it was generated.",
    ge=-2,
    le=2,
)
PRESENCE_PENALTY: Parameter[float] = Parameter(
    "presence_penalty",
    description="Lowers a token by this much once it was generated.",
    ge=-2,
    le=2,
)


def check_bias_count(count: int) -> None:
    """Raise ValueError for more entries than any vocabulary has tokens, before looking at them."""
    if count > _MOST_BIASES:
        raise ValueError(f"has {count} entries; no vocabulary has so many tokens")


def _bias_by_id(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("must be an object of token ids and numbers")
    check_bias_count(len(value))
    for key, bias in value.items():
        if not _TOKEN_ID.fullmatch(str(key)):
            raise ValueError(f"keys must be token ids, not {shown(str(key))}")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise ValueError(f"the bias of token {key} must be a number from -100 to 100")
    return {int(key): float(bias) for key, bias in value.items()}


def _check_bias(value: dict[int, float], bounds: Bounds) -> None:
    refuse_more("logit_bias", len(value), bounds.limits.max_logit_bias)
    check_token_ids("logit_bias", value, bounds.vocab_size)


LOGIT_BIAS: Parameter[dict[int, float]] = Parameter(
    "logit_bias",
    description="Token ids and what to add to their logits, -100 to 100.",
    type=Annotated[
        dict[int, float],
        BeforeValidator(_bias_by_id),
        WithJsonSchema(
            {
                "type": "object",
                "propertyNames": {"pattern": "^[0-9]{1,10}$"},
                "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            }
        ),
    ],
    check=_check_bias,
)
