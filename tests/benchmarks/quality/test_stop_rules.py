"""The benchmark of the stop rules, on a tiny checkpoint and on answers made by hand."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from benchmarks.__main__ import build_parser, main
from benchmarks.quality.code_gaps import KINDS, Gap, SourceText, draw_gaps
from benchmarks.quality.similarity import similarity
from benchmarks.quality.stop_rules import SETS, Answer, Outcome, apply, held_out, measures
from model.request import TokenLogprobs
from model.text.tokenizer import Tokenizer
from tests.support.tokenizers import starcoder_rules

SOURCE = "import os\n\n\ndef f(values):\n    total = sum(values)\n    return total / len(values)\n\n\nprint(f([1]))\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_gap_and_what_is_around_it_are_the_file(kind: str) -> None:
    for gap in draw_gaps([SourceText("a.py", SOURCE)], kind, 5, seed=1):
        assert gap.prefix + gap.missing + gap.suffix == SOURCE
        assert ("\n" in gap.missing) == (kind == "block")
        assert not gap.suffix or gap.suffix[0] == "\n"


def test_files_without_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="block"):
        draw_gaps([SourceText("a.py", "x = 1\n")], "block", 1, seed=0)


def test_the_corpus_lends_its_held_out_files_only(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    splits = ("train", "heldout_file", "heldout_package")
    corpus.write_text("".join(json.dumps({"path": s, "text": "x\n", "split": s}) + "\n" for s in splits))
    assert [source.name for source in held_out([], corpus)[0]] == ["heldout_file", "heldout_package"]
    named = tmp_path / "a.py"
    named.write_text(SOURCE)
    assert held_out([named], corpus)[0] == [SourceText("a.py", SOURCE)]
    assert len(held_out([], tmp_path / "none")[0]) > 3


def test_rules_end_an_answer_where_a_replica_would() -> None:
    tokenizer = Tokenizer(starcoder_rules())
    options = build_parser().parse_args(["stop-rules", "--max-tokens", "60"])
    ids = [*tokenizer.encode(" 1\n    y = 2\nz = 3\n"), tokenizer.eos_id]
    gap = Gap("a.py", "def f():\n    x =", " 1", "\n    y = 2\n")
    answer = Answer(gap, ids, [TokenLogprobs(id, -2.0) for id in ids], finished=True)
    found = {name: apply(answer, name, tokenizer, options) for name in SETS}
    assert found["off"] == Outcome(" 1\n    y = 2\nz = 3\n", len(ids), None)
    first_line = len(tokenizer.encode(" 1")) + 1
    assert found["auto"] == Outcome(" 1", first_line, "block")
    assert (found["line"].rule, found["special_token"].rule) == ("line", None)
    assert found["auto and confidence"] == Outcome("", first_line, "low_confidence")
    values = measures([gap], [found["auto"]], [found["off"]])
    assert (values["exact"], values["similarity"], values["empty"]) == (100, 100, 0)
    assert values["saved"] == pytest.approx(100 * (1 - first_line / len(ids)))


def test_similarity_is_levenshteins() -> None:
    def distance(a: str, b: str) -> int:
        row = list(range(len(b) + 1))
        for i, x in enumerate(a, start=1):
            diagonal, row[0] = row[0], i
            for j, y in enumerate(b, start=1):
                diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
        return row[-1]

    generator = random.Random(0)
    for _ in range(200):
        a, b = ("".join(generator.choices("abc", k=generator.randrange(9))) for _ in range(2))
        assert similarity(a, b) == pytest.approx(1 - distance(a, b) / max(len(a), len(b), 1))


def test_the_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "a.py", tmp_path / "stop-rules.json"
    source.write_text(SOURCE)
    arguments = ["stop-rules", str(source), "--cases", "2", "--max-tokens", "8", "--output", str(output)]
    assert main(arguments) == 0
    metrics = json.loads(output.read_text())["metrics"]
    assert {f"{kind}/{name}/saved" for kind in KINDS for name in SETS} <= metrics.keys()
    assert metrics["line/off/saved"] == 0
    assert str(tmp_path) not in output.read_text()
    assert "rest_of_line: 2 gaps" in capsys.readouterr().out
