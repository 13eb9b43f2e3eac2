"""What else is known of a vocabulary, and what a checkpoint says beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.convert_slow_tokenizer import bytes_to_unicode

from model.config import ConfigError, ModelConfig
from model.text.tokenizer import Tokenizer, _byte_of_char
from tests.support.infills import STARCODER, hostile
from tests.support.tokenizers import starcoder_rules, write_tokenizer


def test_bytes_are_written_as_transformers_writes_them() -> None:
    assert _byte_of_char() == {char: byte for byte, char in bytes_to_unicode().items()}


@given(texts=st.lists(hostile, max_size=4))
def test_the_least_tokens_of_texts_are_no_more_than_they_take(texts: list[str]) -> None:
    assert 0 <= STARCODER.least_tokens(*texts) <= sum(len(STARCODER.encode(text)) for text in texts)


def test_the_least_tokens_are_the_longest_ones() -> None:
    longest = max((STARCODER.token_bytes(id) for id in range(STARCODER.vocab_size)), key=len)
    text = "é" * len(longest)  # two bytes each
    assert STARCODER.least_tokens(text) == 2
    assert STARCODER.least_tokens(text, text) == 4
    assert STARCODER.least_tokens("a" * (len(longest) - 1)) == 0


def test_what_several_prompts_share_is_encoded_once() -> None:
    remembering = STARCODER.remembering()
    remembering._rules = Mock(wraps=STARCODER._rules)
    for _ in range(3):
        ids = remembering.encode("def f(): ...")
        assert ids == STARCODER.encode("def f(): ...")
        ids.append(7)  # whoever gets them may go on with them
    assert remembering._rules.encode_batch_fast.call_count == 1
    assert remembering.encode("other") == STARCODER.encode("other")
    assert remembering._rules.encode_batch_fast.call_count == 2
    assert STARCODER._known is None, "for one request alone"
    assert STARCODER.remembering()._known == {}


def test_a_name_that_another_one_begins_with_is_found_whole() -> None:
    rules = starcoder_rules()
    size = STARCODER.vocab_size
    rules["added_tokens"].append(rules["added_tokens"][0] | {"content": "<file", "id": size})
    tokenizer = Tokenizer(rules)
    assert tokenizer.encode_with_special("<filename><file") == [tokenizer.special["<filename>"], size]
    assert tokenizer.vocab_size == size + 1
    assert tokenizer.token_bytes(size) == b"<file"


@pytest.mark.parametrize("id", [18, 5000])
def test_an_added_token_has_the_id_that_the_library_gives_it(id: int) -> None:
    """Else prompts would have one id, and the text of an answer another."""
    rules = starcoder_rules()
    rules["added_tokens"].append(rules["added_tokens"][0] | {"content": "<new>", "id": id})
    with pytest.raises(ConfigError, match=rf"'<new>' has the id {id}, but would get {STARCODER.vocab_size}"):
        Tokenizer(rules)


def test_one_token_as_text() -> None:
    (half,) = [id for id in range(STARCODER.vocab_size) if STARCODER.token_bytes(id) == b"\xc3"]
    assert STARCODER.token_text(half) == "\ufffd"
    assert STARCODER.token_text(STARCODER.eos_id) == "<|endoftext|>"
    assert STARCODER.token_text(STARCODER.vocab_size) == ""


@pytest.mark.parametrize(("padding", "fits"), [(-1, False), (0, True), (7, True)])
def test_an_embedding_has_a_place_for_each_token(padding: int, fits: bool) -> None:
    sizes = {"n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 1, "n_inner": 8}
    model = ModelConfig(vocab_size=STARCODER.vocab_size + padding, **sizes)
    if fits:
        STARCODER.check(model)
    else:
        with pytest.raises(ConfigError, match=rf"has {STARCODER.vocab_size} tokens, .*={model.vocab_size}: "):
            STARCODER.check(model)


@pytest.mark.parametrize(
    ("said", "template"),
    [
        ({}, None),
        ({"chat_template": "{{ a }}"}, "{{ a }}"),
        ({"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}, "d"),
        ({"chat_template": [{"name": "rag", "template": "r"}]}, None),
    ],
    ids=["none", "one", "several", "no default"],
)
def test_a_checkpoint_has_a_template_for_conversations(
    said: dict[str, Any], template: str | None, tmp_path: Path
) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    assert Tokenizer.from_checkpoint(tmp_path).chat_template == template
    (tmp_path / "chat_template.jinja").write_text("ü{{ b }}", encoding="utf-8")
    assert Tokenizer.from_checkpoint(tmp_path).chat_template == "ü{{ b }}", "the newer place goes first"


@pytest.mark.parametrize(("content", "why"), [("{", "is not a tokenizer's configuration"), ("[1]", "is no object")])
def test_a_broken_configuration_is_told_with_its_file(content: str, why: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=why) as refused:
        Tokenizer.from_checkpoint(tmp_path)
    assert str(file) in str(refused.value)
    assert str(tmp_path / "tokenizer.json") in str(refused.value)
    file.write_text(json.dumps({"eos_token": None}))
    assert Tokenizer.from_checkpoint(tmp_path).eos_token == "<|endoftext|>"
    file.unlink()
    assert Tokenizer.from_checkpoint(tmp_path).commits_seen


def test_rules_that_cannot_be_built_are_told(tmp_path: Path) -> None:
    rules = starcoder_rules()
    rules["model"]["merges"] = [["no such", "tokens"]]
    with pytest.raises(ConfigError, match=r"cannot be built: ."):
        Tokenizer(rules)
    for part in ("model", "decoder"):
        with pytest.raises(ConfigError, match="None" if part == "model" else "decoder None"):
            Tokenizer(starcoder_rules() | {part: None})
