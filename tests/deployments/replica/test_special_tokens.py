"""Which special tokens may be drawn for a request, and which end it."""

from __future__ import annotations

import pytest

from deployments.protocol import GenerationRequest
from deployments.replica.special_tokens import barred_ids, with_special_stops
from model.request import SamplingParams
from model.text.tokenizer import Tokenizer
from tests.support.tokenizers import starcoder_rules

TOKENIZER = Tokenizer(starcoder_rules())
SPECIAL = TOKENIZER.special
FILENAME, OUTPUT, MIDDLE = SPECIAL["<filename>"], SPECIAL["<jupyter_output>"], SPECIAL["<fim_middle>"]


def request(allowed: bool = False, stop: tuple[str, ...] = (), **params: object) -> GenerationRequest:
    return GenerationRequest(
        request_id="r",
        prompts=[[1]],
        params=SamplingParams(**params),  # type: ignore[arg-type]
        stop=stop,
        special_tokens=allowed,
    )


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [
        ({}, set()),
        ({"allowed": True}, set(SPECIAL.values())),
        ({"stop_token_ids": (FILENAME, 40)}, {FILENAME}),
        ({"logit_bias": {MIDDLE: 3.0}}, {MIDDLE}),
        ({"stop": ("return", "<jupyter_output>")}, {OUTPUT}),
        ({"stop": ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<|endoftext|>")}, set()),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_special_tokens_are_barred_unless_the_request_names_them(asked: dict[str, object], drawn: set[int]) -> None:
    """Editors name the markers of fill-in-the-middle as stop strings to be rid of them: that asks for none."""
    barred = barred_ids(request(**asked), TOKENIZER)  # type: ignore[arg-type]
    assert set(barred) == set(SPECIAL.values()) - {TOKENIZER.eos_id} - drawn


def test_stop_strings_that_name_special_tokens_stop_at_these() -> None:
    """They have no text that could match."""
    asked = with_special_stops(request(stop=("return", "<jupyter_output>"), stop_token_ids=(7,)), TOKENIZER)
    assert asked.params.stop_token_ids == (7, OUTPUT)
