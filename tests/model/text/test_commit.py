"""The format of commits: its ids, what is text in it, and vocabularies without it."""

from __future__ import annotations

import pytest
from hypothesis import given

from model.text.commit import render_commit
from model.text.fim import UnsupportedError
from model.text.tokenizer import Tokenizer
from tests.support.infills import STARCODER, hostile
from tests.support.tokenizers import santacoder_rules, starcoder_rules

BEFORE, MESSAGE, AFTER = 15, 16, 17


@given(code=hostile, message=hostile)
def test_code_and_message_are_text_between_starcoders_markers(code: str, message: str) -> None:
    ids = render_commit(STARCODER, code, message)
    assert ids == [BEFORE, *STARCODER.encode(code), MESSAGE, *STARCODER.encode(message), AFTER]
    assert [id for id in ids if id in STARCODER.special_ids] == [BEFORE, MESSAGE, AFTER]


@pytest.mark.parametrize("missing", ["<commit_before>", "<commit_msg>", "<commit_after>"])
def test_a_vocabulary_has_all_of_its_markers_or_none(missing: str) -> None:
    rules = starcoder_rules()
    rules["added_tokens"] = [token for token in rules["added_tokens"] if token["content"] != missing]
    with pytest.raises(UnsupportedError, match=f"^this model has no {missing}: "):
        render_commit(Tokenizer(rules), "a", "b")
    with pytest.raises(UnsupportedError, match=r"^this model has no <commit_before>: "):
        render_commit(Tokenizer(santacoder_rules()), "a", "b")
