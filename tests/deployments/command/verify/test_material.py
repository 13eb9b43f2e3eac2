"""The texts that prompts are made of, and the tokenizer beside transformers'."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deployments.command.verify import cases, material, tokens
from deployments.command.verify.cases import Facts, Prompt
from model.checkpoint.hub import EMBEDDED, resolve_checkpoint
from model.config import ConfigError, EngineConfig
from model.text.tokenizer import Tokenizer
from tests.support.tokenizers import santacoder_rules, starcoder_rules, write_tokenizer

FACTS = Facts(window=8192, chunk=2048, block=16, sequences=64)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_checkpoint(resolve_checkpoint(EMBEDDED))


@pytest.fixture(scope="module")
def built(tokenizer: Tokenizer) -> dict[str, cases.Case]:
    given = material.material(tokenizer, material.code(), (), quick=False)
    assert len(given.code) > FACTS.window, "the text is read twice"
    return {case.name: case for case in cases.build(given, EngineConfig(model="a model"), FACTS)}


def test_prompts_end_at_before_and_behind_blocks_steps_and_the_window(built: dict[str, cases.Case]) -> None:
    lengths = {len(prompt.ids) for prompt in built["one by one"].prompts}
    assert lengths >= {1, 2, 15, 16, 17, 2047, 2048, 2049, 8176, 8191}
    assert len(built["every position of a prompt"].prompts[0].ids) == 8191
    assert max(len(prompt.ids) for prompt in built["many at once"].prompts) <= 2048


def test_gaps_are_asked_for_in_both_orders(built: dict[str, cases.Case], tokenizer: Tokenizer) -> None:
    fim = tokenizer.fim
    assert fim is not None
    psm, spm = (
        [p for p in built["fill in the middle"].prompts if p.name.startswith(order)] for order in ("PSM", "SPM")
    )
    assert len(psm) == len(spm) == 4
    for one, other in zip(psm, spm, strict=True):
        assert sorted(one.ids) == sorted(other.ids)
        assert one.ids[-1] == fim.middle
        assert other.ids[:2] == (fim.prefix, fim.suffix)


def test_every_prompt_and_what_follows_it_fits(tokenizer: Tokenizer) -> None:
    given = material.material(tokenizer, material.code(), (), quick=False)
    for window in (20, 33, 64, 100, 256):
        facts = Facts(window=window, chunk=512, block=16, sequences=3)
        for case in cases.build(given, EngineConfig(model="a model"), facts):
            assert bool(case.prompts) != bool(case.why_not), case
            assert all(len(prompt.ids) < window for prompt in case.prompts)


def test_what_is_switched_off_is_not_tried(tokenizer: Tokenizer) -> None:
    given = material.material(tokenizer, material.code(), (), quick=True)
    config = EngineConfig(model="a model", speculative_tokens=0, enable_prefix_caching=False)
    why = {case.name: case.why_not for case in cases.build(given, config, FACTS) if case.why_not}
    assert why == {"speculation": "it is switched off", "prefix cache": "it is switched off"}


def test_prompts_of_ones_own_are_rendered_as_a_server_renders_them(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "def f(<fim_middle>"}\n\n{"prompt": "a = ", "suffix": "\\nprint(a)"}\n')
    fim = tokenizer.fim
    assert fim is not None
    assert material.own_prompts(file, tokenizer, 100) == (
        Prompt("mine.jsonl, line 1", tuple(tokenizer.encode_with_special("def f(<fim_middle>"))),
        Prompt(
            "mine.jsonl, line 3",
            tuple(fim.join(tokenizer.fim_order.mode, tokenizer.encode("a = "), tokenizer.encode("\nprint(a)"))),
        ),
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("def f():", "line 1: no line of JSON"),
        ('["a"]', "not an object of texts"),
        ('{"prompt": 3}', "not an object of texts"),
        ('{"suffix": "a"}', "wants `prompt`"),
        ('{"prompt": "a", "max_tokens": "3"}', "wants `prompt` and at most `suffix`, not prompt, max_tokens"),
        ('{"prompt": ""}', "0 tokens, of which there have to be 1 to 5"),
        (json.dumps({"prompt": "x = 1\n" * 9}), "tokens, of which there have to be 1 to 5"),
        ("", "there are none in it"),
    ],
)
def test_what_is_no_prompt_is_refused(line: str, reason: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(ConfigError, match=reason):
        material.own_prompts(file, tokenizer, 5)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        material.own_prompts(tmp_path / "none", tokenizer, 5)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        material.own_prompts(tmp_path / "binary", tokenizer, 5)
    rules = starcoder_rules()
    rules["added_tokens"] = [t for t in rules["added_tokens"] if "fim" not in t["content"]]
    (tmp_path / "mine").write_text('{"prompt": "a", "suffix": "b"}')
    with pytest.raises(ConfigError, match="no fill-in-the-middle"):
        material.own_prompts(tmp_path / "mine", Tokenizer(rules), 5)


@pytest.mark.parametrize("rules", [starcoder_rules, santacoder_rules])
def test_tokenizers_that_are_one_agree(rules: object, tmp_path: Path) -> None:
    directory = write_tokenizer(tmp_path, rules())  # type: ignore[operator]
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    mine = Tokenizer.from_checkpoint(directory)
    texts = tokens.samples(material.code(), mine)
    assert sum(len(text) for text in texts) > 20_000
    assert all(any(name in text for text in texts) for name in mine.special)
    assert tokens.differences(texts, tokens.ours(mine, texts), tokens.theirs(directory, texts)) == []


def test_tokenizers_that_differ_are_told_by_the_text(tmp_path: Path) -> None:
    rules = starcoder_rules()
    mine = Tokenizer(rules)
    other = json.loads(json.dumps(rules))
    other["model"]["merges"] = other["model"]["merges"][:-40]
    next(token for token in other["added_tokens"] if token["content"] == "<reponame>")["special"] = False
    directory = write_tokenizer(tmp_path, other)
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    texts = [*tokens.samples(material.code(), mine), "a <reponame> b"]
    found = tokens.differences(texts, tokens.ours(mine, texts), tokens.theirs(directory, texts))
    assert found[-1] == "tokenizer: 'a <reponame> b' is not what transformers makes of it as plain text"
    assert len(found) > 10
