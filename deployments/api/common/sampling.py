"""Sampling fields that dialects share, and their translation to `SamplingParams`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from deployments.api.parameters.bounds import refuse_if, refuse_more
from deployments.api.parameters.parameter import Bounds
from deployments.api.parameters.registry import parameters
from deployments.limits import ApiLimits
from deployments.request_field import with_fields
from model.request import SamplingParams


def _stop_strings(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ValueError("must be a string or a list of strings")
    if "" in stops:
        raise ValueError("must not hold an empty string")
    return tuple(stops)


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


class DialectModel(BaseModel):
    """Base of request schemas: unknown fields are ignored, null means the default, no silent conversions.

    passed_over: unknown fields that clients of the dialect send unasked, and of which they are not told.
    """

    passed_over: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_means_default(cls, data: Any) -> Any:
        return {k: v for k, v in data.items() if v is not None} if isinstance(data, dict) else data


if TYPE_CHECKING:
    _ParameterFields = DialectModel
else:
    _ParameterFields = with_fields(
        DialectModel, "_ParameterFields", [parameter.request_field() for parameter in parameters() if parameter.shared]
    )


class SamplingFields(_ParameterFields):
    """How tokens are chosen and when generation ends. Names and meanings are OpenAI's and vLLM's.

    The sampling parameters declare theirs.
    """

    stop: StopStrings = Field(
        default=(),
        description="Strings that end generation; not part of the text. At most 16 unless the server is set otherwise.",
    )
    include_stop_str_in_output: bool = Field(default=False, description="Leave the stop string in the text.")
    skip_special_tokens: bool = Field(
        default=True,
        description="Special tokens other than end-of-text are not drawn, and not in the text. False: they may be, and "
        "are. Those that `stop_token_ids` or `logit_bias` names may be drawn in any case.",
    )

    def to_params(
        self,
        *,
        max_tokens: int,
        limits: ApiLimits,
        vocab_size: int,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
    ) -> SamplingParams:
        """Translate; raise InvalidRequestError where a value fits the schema but not this server or model."""
        self._check_stops(limits)
        bounds = Bounds(max_tokens, limits, vocab_size)
        values = {parameter.name: parameter.of(self) for parameter in parameters() if parameter.shared}
        values |= {"max_tokens": max_tokens, "logprobs": logprobs, "prompt_logprobs": prompt_logprobs}
        changes: dict[str, object] = {}
        for parameter in parameters():
            changes |= parameter.changes(values[parameter.name], bounds)
        return SamplingParams(**changes)  # type: ignore[arg-type]

    def _check_stops(self, limits: ApiLimits) -> None:
        refuse_more("stop", len(self.stop), limits.max_stop_strings)
        refuse_if(
            any(len(stop) > limits.max_stop_chars for stop in self.stop),
            "stop",
            f"a stop string is longer than {limits.max_stop_chars} characters",
        )
