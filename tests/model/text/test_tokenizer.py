"""Plain text, special tokens and ids, against transformers' tokenizer on the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from model.config import ConfigError
from model.text.commit import commit_knowledge
from model.text.fim import FimMode, FimOrder
from model.text.prompts import Raw
from model.text.tokenizer import Tokenizer
from tests.support.tokenizers import (
    SANTACODER_SPECIAL,
    STARCODER_SPECIAL,
    santacoder_rules,
    starcoder_rules,
    write_tokenizer,
)

STARCODER = Tokenizer(starcoder_rules())
SANTACODER = Tokenizer(santacoder_rules())
BOTH = pytest.mark.parametrize("tokenizer", [STARCODER, SANTACODER], ids=["starcoder", "santacoder"])

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
# Hypothesis draws on the strings of the code under test: it does find `<fim_prefix>` by itself.
nameless_text = text.filter(lambda value: "<" not in value)
special_names = st.sampled_from([*STARCODER_SPECIAL, *SANTACODER_SPECIAL, "<ordinary-added>"])
hostile_text = st.lists(text | special_names, max_size=8).map("".join)


@pytest.fixture(scope="module", params=["starcoder", "santacoder"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    rules = starcoder_rules() if request.param == "starcoder" else santacoder_rules()
    directory = write_tokenizer(tmp_path_factory.mktemp(request.param), rules)
    reference = PreTrainedTokenizerFast(
        tokenizer_file=str(directory / "tokenizer.json"),
        eos_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    return Tokenizer.from_checkpoint(directory), reference


def test_special_tokens_have_starcoders_ids() -> None:
    assert [STARCODER.special[name] for name in STARCODER_SPECIAL] == list(range(19))
    assert STARCODER.eos_id == 0
    fim = STARCODER.fim
    assert fim is not None
    assert (fim.prefix, fim.middle, fim.suffix, fim.pad) == (1, 2, 3, 4)
    assert STARCODER.special_ids == frozenset(range(19))


def test_santacoders_dashed_names_are_found() -> None:
    fim = SANTACODER.fim
    assert fim is not None
    assert [fim.prefix, fim.middle, fim.suffix, fim.pad] == [
        SANTACODER.special[name] for name in SANTACODER_SPECIAL[1:]
    ]
    assert SANTACODER.token_bytes(fim.prefix) == b"<fim-prefix>"


@BOTH
@given(value=hostile_text)
@example(value="<fim_middle><|endoftext|>")
@example(value="a<fim-suffix> 1234567 <ordinary-added>")
def test_plain_text_round_trips_and_never_becomes_special(tokenizer: Tokenizer, value: str) -> None:
    ids = tokenizer.encode(value)
    assert tokenizer.special_ids.isdisjoint(ids)
    assert tokenizer.decode(ids) == value
    assert b"".join(map(tokenizer.token_bytes, ids)) == value.encode()


def test_fim_markers_added_as_ordinary_tokens_are_special_all_the_same() -> None:
    rules = starcoder_rules()
    for token in rules["added_tokens"]:
        token["special"] = token["content"] == "<|endoftext|>"
    tokenizer = Tokenizer(rules)
    assert tokenizer.fim == STARCODER.fim
    assert tokenizer.special_ids.isdisjoint(tokenizer.encode("x<fim_middle>y"))


@given(value=nameless_text)
def test_encode_equals_transformers(pair, value: str) -> None:
    ours, reference = pair
    assert ours.encode(value) == reference.encode(value, add_special_tokens=False)


@given(value=hostile_text)
def test_plain_encoding_equals_transformers_with_split_special_tokens(pair, value: str) -> None:
    ours, reference = pair
    assert ours.encode(value) == reference.encode(value, add_special_tokens=False, split_special_tokens=True)


@given(pieces=st.lists(nameless_text | st.sampled_from(STARCODER_SPECIAL[4:]), max_size=8))
def test_raw_prompt_equals_transformers(pair, pieces: list[str]) -> None:
    """Special tokens on purpose, outside of FIM: `<filename>`, `<commit_before>` and the like."""
    ours, reference = pair
    assert Raw().encode(ours, "".join(pieces)) == reference.encode("".join(pieces), add_special_tokens=False)


@given(data=st.data())
def test_decode_equals_transformers_on_any_ids(pair, data: st.DataObject) -> None:
    ours, reference = pair
    ids = data.draw(st.lists(st.integers(0, ours.vocab_size - 1), max_size=30))
    assert ours.decode(ids) == reference.decode(ids, skip_special_tokens=True)
    assert ours.decode(ids, skip_special=False) == reference.decode(ids, skip_special_tokens=False)


def test_ids_without_a_token_are_empty() -> None:
    """The model's embedding may be padded beyond the vocabulary."""
    assert STARCODER.token_bytes(STARCODER.vocab_size) == b""
    assert STARCODER.token_bytes(-1) == b""
    assert STARCODER.decode([STARCODER.vocab_size + 5, *STARCODER.encode("x")]) == "x"


def test_lone_surrogate_is_a_value_error() -> None:
    with pytest.raises(UnicodeEncodeError):
        STARCODER.encode("a\ud800b")


def test_every_byte_has_a_token() -> None:
    single = {STARCODER.token_bytes(id) for id in range(STARCODER.vocab_size)}
    assert {bytes([byte]) for byte in range(256)} <= single


def test_checkpoint_without_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        Tokenizer.from_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is no object"),
        ('{"model": {"type": "Unigram"}, "decoder": {"type": "Metaspace"}}', "byte-level BPE"),
        ('{"model": {"type": "BPE"}, "decoder": {"type": "ByteLevel"}}', "no special token"),
    ],
)
def test_unfit_tokenizer_files_are_clear_errors(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        Tokenizer.from_checkpoint(tmp_path)


@pytest.mark.parametrize("eos", ["<fim_pad>", {"content": "<fim_pad>", "__type": "AddedToken"}])
def test_end_of_text_is_read_from_the_checkpoint(tmp_path: Path, eos: object) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
    assert Tokenizer.from_checkpoint(tmp_path).eos_id == 4


def test_truncation_saved_with_a_tokenizer_is_ignored(tmp_path: Path) -> None:
    rules = starcoder_rules() | {
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    }
    tokenizer = Tokenizer.from_checkpoint(write_tokenizer(tmp_path, rules))
    assert tokenizer.decode(tokenizer.encode("one two three four five six")) == "one two three four five six"


def test_a_checkpoint_names_its_fim_order(tmp_path: Path) -> None:
    directory = write_tokenizer(tmp_path, starcoder_rules())
    file = directory / "tokenizer_config.json"
    configuration = json.loads(file.read_text()) if file.exists() else {}
    modes: tuple[FimMode, ...] = ("spm", "psm")
    for mode in modes:
        file.write_text(json.dumps(configuration | {"fim_mode": mode}))
        assert Tokenizer.from_checkpoint(directory).fim_order == FimOrder(mode, "checkpoint")
    file.write_text(json.dumps(configuration | {"fim_mode": "mps"}))
    with pytest.raises(ConfigError, match="fim_mode"):
        Tokenizer.from_checkpoint(directory)


def test_a_checkpoint_says_that_it_has_seen_no_commits(tmp_path: Path) -> None:
    directory = write_tokenizer(tmp_path, starcoder_rules())
    file = directory / "tokenizer_config.json"
    configuration = json.loads(file.read_text()) if file.exists() else {}
    assert commit_knowledge(Tokenizer.from_checkpoint(directory)) == "trained"
    file.write_text(json.dumps(configuration | {"commits_seen": False}))
    assert commit_knowledge(Tokenizer.from_checkpoint(directory)) == "untrained"
    assert commit_knowledge(Tokenizer(santacoder_rules())) == "none"
    file.write_text(json.dumps(configuration | {"commits_seen": "no"}))
    with pytest.raises(ConfigError, match="commits_seen"):
        Tokenizer.from_checkpoint(directory)


@pytest.mark.parametrize("rules", [starcoder_rules(), santacoder_rules()], ids=["starcoder", "santacoder"])
def test_bigcodes_models_know_both_orders_and_get_the_one_that_keeps_the_cache(rules: dict[str, Any]) -> None:
    assert Tokenizer(rules).fim_order == FimOrder("spm", "family")


def test_other_vocabularies_get_the_order_that_everybody_trains() -> None:
    rules = starcoder_rules()
    rules["added_tokens"] = [token for token in rules["added_tokens"] if token["content"] != "<fim_pad>"]
    assert Tokenizer(rules).fim_order == FimOrder("psm", "default")
    rules["added_tokens"] = [token for token in rules["added_tokens"] if not token["content"].startswith("<fim_")]
    assert Tokenizer(rules).fim_order == FimOrder("psm", "default")
