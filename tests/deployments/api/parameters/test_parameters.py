"""What the engine gets of each sampling parameter, and what is refused before it does."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from deployments.api.common.sampling import SamplingFields
from deployments.api.parameters.logprobs import check_alternatives
from deployments.api.parameters.parameter import Parameter
from deployments.api.parameters.registry import parameters
from deployments.errors import InvalidRequestError
from deployments.limits import ApiLimits
from model.request import SamplingParams

LIMITS = ApiLimits(max_stop_strings=3, max_stop_chars=5, max_logprobs=4, max_logit_bias=2)
VOCAB_SIZE = 100
DECLARED = {parameter.name: parameter for parameter in parameters()}


def params(max_tokens: int = 10, logprobs: int | None = None, **fields: Any) -> SamplingParams:
    """Of a body with these fields."""
    body = SamplingFields.model_validate(fields)
    return body.to_params(max_tokens=max_tokens, limits=LIMITS, vocab_size=VOCAB_SIZE, logprobs=logprobs)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": 0.99e-4}, {"temperature": 0.0}),  # its logits would leave float32's range
        ({"temperature": 1e-4}, {"temperature": 1e-4}),
        ({"temperature": 2}, {"temperature": 2.0}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 0}, {"top_k": 0}),
        ({"top_k": 7}, {"top_k": 7}),
        ({"top_k": 2**31 - 1}, {"top_k": VOCAB_SIZE}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"top_p": 0}, {"top_p": 1.0, "top_k": 1}),  # the smallest nucleus is one token
        ({"top_p": 0, "top_k": 50}, {"top_p": 1.0, "top_k": 1}),
        ({"min_p": 0.25}, {"min_p": 0.25}),
        ({"seed": 7}, {"seed": 7}),
        ({"seed": 0}, {"seed": 0}),
        ({"seed": 2**62 + 5}, {"seed": 5}),
        ({"seed": -1}, {"seed": 2**62 - 1}),
        ({"seed": -(2**63)}, {"seed": 0}),
        ({"seed": None}, {}),
        ({"repetition_penalty": 0.01}, {"repetition_penalty": 0.01}),
        ({"frequency_penalty": -2, "presence_penalty": 2}, {"frequency_penalty": -2.0, "presence_penalty": 2.0}),
        ({"logit_bias": {"0": -100, "99": 100.0}}, {"logit_bias": {0: -100.0, 99: 100.0}}),
        ({"stop_token_ids": [0, 99, 5]}, {"stop_token_ids": (0, 99, 5)}),
        ({"ignore_eos": True}, {"ignore_eos": True}),
        ({"min_tokens": 10}, {"min_tokens": 10}),
    ],
    ids=str,
)
def test_what_the_engine_gets(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert params(**fields) == SamplingParams(**{"max_tokens": 10, **expected})


def test_nothing_said_is_the_engines_own() -> None:
    assert params(max_tokens=SamplingParams().max_tokens) == SamplingParams()


def test_what_dialects_name_themselves() -> None:
    assert params(max_tokens=0).max_tokens == 1, "the prompt is run, and the token dropped"
    assert params(max_tokens=1).max_tokens == 1
    assert params(logprobs=0).logprobs == 0
    assert params(logprobs=4).logprobs == 4


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"min_tokens": 11}, "min_tokens", "`min_tokens`: 11 is more than max_tokens (10)."),
        ({"logprobs": 5}, "logprobs", "`logprobs`: 5 is too many; at most 4 are allowed."),
        ({"stop_token_ids": [1, 2, 3, 4]}, "stop_token_ids", "`stop_token_ids`: has 4 entries; at most 3 are allowed."),
        (
            {"stop_token_ids": [5, 100, -1]},
            "stop_token_ids",
            "`stop_token_ids`: token id 100 is outside the vocabulary (0 to 99).",
        ),
        (
            {"stop_token_ids": [-1]},
            "stop_token_ids",
            "`stop_token_ids`: token id -1 is outside the vocabulary (0 to 99).",
        ),
        (
            {"logit_bias": {"1": 0, "2": 0, "3": 0}},
            "logit_bias",
            "`logit_bias`: has 3 entries; at most 2 are allowed.",
        ),
        ({"logit_bias": {"100": 0}}, "logit_bias", "`logit_bias`: token id 100 is outside the vocabulary (0 to 99)."),
        ({"stop": list("abcd")}, "stop", "`stop`: has 4 entries; at most 3 are allowed."),
        ({"stop": ["a", "123456"]}, "stop", "`stop`: a stop string is longer than 5 characters."),
    ],
    ids=str,
)
def test_what_does_not_fit_this_server_or_model(fields: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        params(**fields)
    assert (refused.value.message, refused.value.param, refused.value.code) == (message, param, "invalid_value")


def test_what_just_fits() -> None:
    assert params(stop=["12345", "b", "c"], stop_token_ids=[1, 2, 3]).stop_token_ids == (1, 2, 3)


@pytest.mark.parametrize(
    ("name", "least", "most", "beyond"),
    [
        ("temperature", 0, 2, 0.001),
        ("top_k", -1, 2**31 - 1, 1),
        ("top_p", 0, 1, 0.001),
        ("min_p", 0, 1, 0.001),
        ("seed", -(2**63), 2**63 - 1, 1),
        ("repetition_penalty", 0.01, 100, 0.001),
        ("frequency_penalty", -2, 2, 0.001),
        ("presence_penalty", -2, 2, 0.001),
        ("min_tokens", 0, 2**31 - 1, 1),
    ],
)
def test_every_range_has_two_ends(name: str, least: float, most: float, beyond: float) -> None:
    for value in (least, most):
        assert getattr(SamplingFields.model_validate({name: value}), name) == value
    for value in (least - beyond, most + beyond):
        with pytest.raises(ValidationError, match=name):
            SamplingFields.model_validate({name: value})


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ([1, 2], "must be an object of token ids and numbers"),
        ({"x": 1}, "keys must be token ids, not 'x'"),
        ({"-1": 1}, "keys must be token ids, not '-1'"),
        ({"1" * 11: 1}, "keys must be token ids, not '11111111111'"),
        ({"٣": 1}, "keys must be token ids"),
        ({"7": True}, "the bias of token 7 must be a number from -100 to 100"),
        ({"7": "1"}, "the bias of token 7 must be a number from -100 to 100"),
        ({"7": 100.5}, "the bias of token 7 must be a number from -100 to 100"),
        ({"7": -100.5}, "the bias of token 7 must be a number from -100 to 100"),
        ({str(key): 0 for key in range((1 << 16) + 1)}, "has 65537 entries; no vocabulary has so many tokens"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_bias(bias: Any, message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        SamplingFields.model_validate({"logit_bias": bias})
    (error,) = refused.value.errors()
    assert error["loc"] == ("logit_bias",)
    assert error["msg"].removeprefix("Value error, ").startswith(message)


def test_as_many_biases_as_any_vocabulary_has_tokens_are_read() -> None:
    body = SamplingFields.model_validate({"logit_bias": {str(key): 0 for key in range(1 << 16)}})
    assert len(body.logit_bias) == 1 << 16  # type: ignore[attr-defined]


def test_alternatives_are_refused_under_the_name_that_a_dialect_has_for_them() -> None:
    check_alternatives("top_logprobs", 4, LIMITS)
    with pytest.raises(InvalidRequestError) as refused:
        check_alternatives("top_logprobs", 5, LIMITS)
    assert (refused.value.param, refused.value.message) == (
        "top_logprobs",
        "`top_logprobs`: 5 is too many; at most 4 are allowed.",
    )


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_a_dialects_own_field_is_like_the_shared_one_but_for_what_it_says(name: str) -> None:
    """Such as another default, in place of one that is made anew for each body."""
    declared: Parameter[Any] = DECLARED[name]
    shared, same, own = declared.request_field().info, declared.field(), declared.field(default=None, alias="x")
    assert (same.default, same.default_factory) == (shared.default, shared.default_factory)
    assert same.description == shared.description == declared.description
    assert list(map(str, same.metadata)) == list(map(str, shared.metadata)) == list(map(str, own.metadata))
    assert (own.default, own.default_factory, own.alias) == (None, None, "x")
    assert own.description == (declared.brief or declared.description)
