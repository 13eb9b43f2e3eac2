"""The text before what is generated, whichever prompt it is."""

from __future__ import annotations

import pytest

from model.text.before import text_before
from model.text.fim import FimMode
from model.text.tokenizer import Tokenizer
from tests.support.tokenizers import starcoder_rules

BEFORE, AFTER = "def größe(a):\n    return ", "\n\nprint(größe(1))\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(starcoder_rules())


@pytest.mark.parametrize("mode", ["psm", "spm"])
@pytest.mark.parametrize("before", [BEFORE, ""])
@pytest.mark.parametrize("after", [AFTER, ""])
def test_of_a_gap(tokenizer: Tokenizer, mode: FimMode, before: str, after: str) -> None:
    assert tokenizer.fim is not None
    ids = tokenizer.fim.join(mode, tokenizer.encode(before), tokenizer.encode(after))
    assert text_before(tokenizer, ids, 1000) == before


def test_of_plain_text_and_of_nothing(tokenizer: Tokenizer) -> None:
    assert text_before(tokenizer, tokenizer.encode(BEFORE), 1000) == BEFORE
    assert text_before(tokenizer, [], 1000) == ""


def test_its_end_is_what_counts(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(BEFORE)
    assert text_before(tokenizer, ids, 3) == tokenizer.decode(ids[-3:])
    assert tokenizer.fim is not None
    gap = tokenizer.fim.join("psm", ids, tokenizer.encode(AFTER))
    assert text_before(tokenizer, gap, 3) == tokenizer.decode(ids[-3:])
