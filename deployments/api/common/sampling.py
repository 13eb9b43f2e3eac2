"""Sampling fields that dialects share: bounds, defaults and their translation to `SamplingParams`."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from deployments.errors import InvalidRequestError
from deployments.limits import ApiLimits
from model.request import SamplingParams

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1

# Below this, logits divided by the temperature leave float32's range; there, sampling is greedy anyway.
_MIN_TEMPERATURE = 1e-4

# Leaves room for `seed + i` of the i-th completion in a signed 64-bit integer.
_SEED_MODULUS = 1 << 62

_TOKEN_ID = re.compile(r"[0-9]{1,10}", re.ASCII)


def _stop_strings(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ValueError("must be a string or a list of strings")
    if "" in stops:
        raise ValueError("must not hold an empty string")
    return tuple(stops)


def _bias_by_id(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("must be an object of token ids and numbers")
    for key, bias in value.items():
        if not _TOKEN_ID.fullmatch(str(key)):
            raise ValueError(f"keys must be token ids, not {str(key)[:40]!r}")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise ValueError(f"the bias of token {key} must be a number from -100 to 100")
    return {int(key): float(bias) for key, bias in value.items()}


StopStrings = Annotated[
    tuple[str, ...],
    BeforeValidator(_stop_strings),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}},
            ]
        }
    ),
]
LogitBias = Annotated[
    dict[int, float],
    BeforeValidator(_bias_by_id),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": "^[0-9]{1,10}$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        }
    ),
]


class DialectModel(BaseModel):
    """Base of request schemas: unknown fields are ignored, null means the default, no silent conversions."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_means_default(cls, data: Any) -> Any:
        return {k: v for k, v in data.items() if v is not None} if isinstance(data, dict) else data


class SamplingFields(DialectModel):
    """How tokens are chosen and when generation ends. Names and meanings are OpenAI's and vLLM's."""

    temperature: float = Field(
        default=1.0, ge=0, le=2, description="0 always takes the most likely token; higher values vary more."
    )
    top_p: float = Field(
        default=1.0, ge=0, le=1, description="Sample from the fewest tokens that hold this share of probability."
    )
    top_k: int = Field(
        default=0, ge=-1, le=INT32_MAX, description="Sample from the k most likely tokens; 0 or -1: from all."
    )
    min_p: float = Field(
        default=0.0, ge=0, le=1, description="Drop tokens less likely than this share of the most likely one."
    )
    repetition_penalty: float = Field(
        default=1.0,
        ge=0.01,
        le=100,
        description="Above 1, tokens of the prompt and the completion become less likely to repeat.",
    )
    frequency_penalty: float = Field(
        default=0.0, ge=-2, le=2, description="Lowers a token by this much for each time it was generated."
    )
    presence_penalty: float = Field(
        default=0.0, ge=-2, le=2, description="Lowers a token by this much once it was generated."
    )
    logit_bias: LogitBias = Field(
        default_factory=dict, description="Token ids and what to add to their logits, -100 to 100."
    )
    seed: int | None = Field(
        default=None,
        ge=-INT64_MAX - 1,
        le=INT64_MAX,
        description="The same seed gives the same text, whatever else the server is doing.",
    )
    stop: StopStrings = Field(
        default=(),
        description="Strings that end generation; not part of the text. At most 16 unless the server is set otherwise.",
    )
    stop_token_ids: list[int] = Field(default_factory=list, description="Token ids that end generation.")
    min_tokens: int = Field(
        default=0, ge=0, le=INT32_MAX, description="No end-of-text or stop token before this many tokens."
    )
    ignore_eos: bool = Field(default=False, description="Go on past end-of-text.")
    include_stop_str_in_output: bool = Field(default=False, description="Leave the stop string in the text.")
    skip_special_tokens: bool = Field(default=True, description="Leave special tokens out of the text.")

    def to_params(
        self,
        *,
        max_tokens: int,
        limits: ApiLimits,
        vocab_size: int,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
    ) -> SamplingParams:
        """Translate; raise InvalidRequestError where a value fits the schema but not this server or model.

        max_tokens 0 is sent to the engine as 1: it runs the prompt, and the API drops the token.
        """
        self._check(max_tokens, limits, vocab_size, logprobs)
        # The smallest nucleus is the most likely token alone.
        top_p, top_k = (1.0, 1) if self.top_p == 0 else (self.top_p, max(self.top_k, 0))
        return SamplingParams(
            max_tokens=max(max_tokens, 1),
            min_tokens=self.min_tokens,
            temperature=0.0 if self.temperature < _MIN_TEMPERATURE else self.temperature,
            top_p=top_p,
            top_k=min(top_k, vocab_size),
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            logit_bias=self.logit_bias,
            seed=None if self.seed is None else self.seed % _SEED_MODULUS,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            stop_token_ids=tuple(self.stop_token_ids),
            ignore_eos=self.ignore_eos,
        )

    def _check(self, max_tokens: int, limits: ApiLimits, vocab_size: int, logprobs: int | None) -> None:
        refuse_if(
            self.min_tokens > max_tokens,
            "min_tokens",
            f"{self.min_tokens} is more than max_tokens ({max_tokens})",
        )
        for field, values in (("stop", self.stop), ("stop_token_ids", self.stop_token_ids)):
            refuse_if(
                len(values) > limits.max_stop_strings,
                field,
                f"has {len(values)} entries; at most {limits.max_stop_strings} are allowed",
            )
        refuse_if(
            any(len(stop) > limits.max_stop_chars for stop in self.stop),
            "stop",
            f"a stop string is longer than {limits.max_stop_chars} characters",
        )
        refuse_if(
            len(self.logit_bias) > limits.max_logit_bias,
            "logit_bias",
            f"has {len(self.logit_bias)} entries; at most {limits.max_logit_bias} are allowed",
        )
        refuse_if(
            logprobs is not None and logprobs > limits.max_logprobs,
            "logprobs",
            f"{logprobs} is too many; at most {limits.max_logprobs} are allowed",
        )
        check_token_ids("stop_token_ids", self.stop_token_ids, vocab_size)
        check_token_ids("logit_bias", self.logit_bias, vocab_size)


def refuse_if(condition: bool, field: str, problem: str) -> None:
    if condition:
        raise InvalidRequestError(f"`{field}`: {problem}.", param=field, code="invalid_value")


def check_token_ids(field: str, ids: Collection[int], vocab_size: int) -> None:
    """Raise InvalidRequestError for the first id outside the vocabulary."""
    if ids and (min(ids) < 0 or max(ids) >= vocab_size):
        wrong = next(token_id for token_id in ids if not 0 <= token_id < vocab_size)
        refuse_if(True, field, f"token id {wrong} is outside the vocabulary (0 to {vocab_size - 1})")
