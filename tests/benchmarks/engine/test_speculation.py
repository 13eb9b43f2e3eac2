"""The benchmark of drafts: the texts it writes, and that writing them is the engine's own work."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.engine.speculation import ReplayEngine, decode, edits, infills, noise
from benchmarks.quality.code_gaps import SourceText
from model.checkpoint.hub import PICO, resolve_checkpoint
from model.config import EngineConfig
from model.process.rank import Rank
from model.text.tokenizer import Tokenizer

FUNCTION = """def mean(values):
    total = 0
    count = 0
    for value in values:
        total += value
        count += 1
    if not count:
        raise ValueError("values are empty")
    average = total / count
    return average
"""
SOURCES = [SourceText("a.py", f"import os\n\n\n{FUNCTION}\n\nprint(mean([1]))\n")]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_checkpoint(resolve_checkpoint(PICO, None))


@pytest.fixture
def options() -> argparse.Namespace:
    return argparse.Namespace(cases=1, max_tokens=400, seed=0)


def test_an_edit_gives_the_function_and_asks_for_it_with_another_name(
    tokenizer: Tokenizer, options: argparse.Namespace
) -> None:
    [case] = edits(SOURCES, tokenizer, options)
    prompt, output = tokenizer.decode(case.prompt), tokenizer.decode(case.output)
    assert FUNCTION in prompt
    assert "renamed_value" in output
    assert "renamed_value" not in prompt
    [name] = set(re.findall(r"\w+", FUNCTION)) - set(re.findall(r"\w+", output))
    assert re.sub(rf"\b{name}\b", "renamed_value", FUNCTION).strip() == output.strip()


def test_an_infill_is_a_block_of_the_file(tokenizer: Tokenizer, options: argparse.Namespace) -> None:
    [case] = infills(SOURCES, tokenizer, options)
    assert tokenizer.decode(case.output).strip() in FUNCTION
    assert tokenizer.decode(case.output) not in tokenizer.decode(case.prompt)


def test_noise_repeats_pairs_and_hardly_what_follows_them(tokenizer: Tokenizer, options: argparse.Namespace) -> None:
    [case] = noise(SOURCES, tokenizer, options)
    assert len(case.output) == 400
    assert len(set(case.prompt)) == 30


def test_the_texts_are_written_in_fewer_steps_and_nothing_else_differs(
    tokenizer: Tokenizer, options: argparse.Namespace
) -> None:
    rank = Rank(EngineConfig(model=str(resolve_checkpoint(PICO, None)), num_threads=1))
    rank.load()
    cases = edits(SOURCES, tokenizer, options)
    runs = {}
    for length in (0, 8):
        engine = ReplayEngine(rank.engine().executor, enable_prefix_caching=False, speculative_tokens=length)
        runs[length] = decode(engine, cases)
        engine.check_integrity()
    without, with_drafts = runs[0], runs[8]
    assert without.tokens == with_drafts.tokens == len(cases[0].output) - 1
    assert (without.drafted, without.accepted) == (0, 0)
    assert with_drafts.steps < without.steps / 1.5
    assert 0 < with_drafts.accepted <= with_drafts.drafted
    assert without.steps - with_drafts.steps == with_drafts.accepted


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "result.json"
    arguments = ["--model", str(resolve_checkpoint(PICO, None)), "--num-threads", "1", "--no-limits"]
    few = ["--cases", "1", "--rounds", "1", "--max-tokens", "24", "--corpus", str(tmp_path / "none.jsonl")]
    assert main(["speculation", *arguments, *few, "--output", str(output)]) == 0
    assert "drafts right" in capsys.readouterr().out
    metrics = json.loads(output.read_text())["metrics"]
    assert {name.partition("/")[0] for name in metrics} == {"edit", "infill", "noise"}
    assert metrics["edit/tokens"] > 0
