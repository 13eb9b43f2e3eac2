"""What a run keeps, and what is left to ask."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.quality.protocols.registry import PROTOCOLS
from benchmarks.quality.record import Record, Sample, Settings
from benchmarks.quality.sampling import Drawing, missing
from benchmarks.quality.sandbox.judge import Verdict
from benchmarks.quality.served import Served
from tests.support.made_up_benchmarks import HUMANEVAL

SERVED = Served("http://127.0.0.1:8000", "nano", "bfloat16, none")
SETTINGS = Settings("humaneval", SERVED, "0" * 64, 0, 0.2, 0.95)
DRAWING = Drawing(samples=200, choices=100, requests=4, seed=7, temperature=0.2, top_p=0.95)
PROBLEMS = PROTOCOLS["humaneval"].problems(HUMANEVAL)


def test_what_was_kept_is_there_again(tmp_path: Path) -> None:
    record = Record(tmp_path / "run")
    with pytest.raises(ValueError, match="no answers"):
        assert record.served
    record.begin(SETTINGS)
    sample = Sample("HumanEval/0", 3, "    return '\u2028\n漢'\n")
    record.add_samples([sample])
    record.add_verdict(sample.key, Verdict(False, "timed out"))
    again = Record(tmp_path / "run")
    again.begin(SETTINGS)
    assert again.served == SERVED
    assert again.samples == {("HumanEval/0", 3): sample}
    assert again.verdicts[sample.key].why == "timed out"


def test_a_line_that_was_half_written_is_dropped(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.add_samples([Sample("a", 0, "x"), Sample("a", 1, "y")])
    file = tmp_path / "samples.jsonl"
    file.write_bytes(file.read_bytes()[:-3])
    record = Record(tmp_path)
    assert list(record.samples) == [("a", 0)]
    record.add_samples([Sample("a", 1, "y")])
    assert list(Record(tmp_path).samples) == [("a", 0), ("a", 1)]


def test_answers_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.begin(SETTINGS)
    record.add_samples([Sample("a", 0, "x")])
    with pytest.raises(ValueError, match=r"model: nano, now pico; temperature: 0\.2, now 0\.8"):
        Record(tmp_path).begin(replace(SETTINGS, served=replace(SERVED, model="pico"), temperature=0.8))
    for changed, why in (
        ({"url": "http://127.0.0.1:9"}, "url: "),
        ({"weights": "bfloat16, int8"}, "none, now bfloat16, int8"),
    ):
        with pytest.raises(ValueError, match=why):
            Record(tmp_path).begin(replace(SETTINGS, served=replace(SERVED, **changed)))


def test_a_folder_of_before_knows_less_and_goes_on(tmp_path: Path) -> None:
    """It named a model alone; a server may not tell its weights either."""
    old = {name: value for name, value in vars(SETTINGS).items() if name != "served"}
    (tmp_path / "settings.json").write_text(json.dumps({**old, "model": "nano"}))
    Record(tmp_path).add_samples([Sample("a", 0, "x")])
    assert Record(tmp_path).served == Served("", "nano")
    Record(tmp_path).begin(SETTINGS)
    with pytest.raises(ValueError, match="model: nano, now pico"):
        Record(tmp_path).begin(replace(SETTINGS, served=replace(SERVED, model="pico")))


def test_a_run_that_got_no_answer_leaves_the_folder_to_others(tmp_path: Path) -> None:
    Record(tmp_path).begin(replace(SETTINGS, served=replace(SERVED, model="misspelt")))
    Record(tmp_path).begin(SETTINGS)
    assert Record(tmp_path).served == SERVED


def test_two_hundred_answers_are_two_requests_and_two_hundred_seeds() -> None:
    asks = missing(PROBLEMS, DRAWING, lambda key: False)
    assert [(ask.problem.id, ask.seed, ask.choices) for ask in asks] == [
        ("HumanEval/0", 7, 100),
        ("HumanEval/0", 107, 100),
        ("HumanEval/1", 1007, 100),
        ("HumanEval/1", 1107, 100),
    ]


@given(st.sets(st.integers(0, 30)), st.integers(1, 31), st.integers(1, 12))
def test_what_is_left_is_asked_once_and_in_runs(there: set[int], samples: int, choices: int) -> None:
    drawing = replace(DRAWING, samples=samples, choices=choices, seed=0)
    asks = missing(PROBLEMS[:1], drawing, lambda key: key[1] in there)
    asked = [seed for ask in asks for seed in range(ask.seed, ask.seed + ask.choices)]
    assert asked == [seed for seed in range(samples) if seed not in there]
    assert all(1 <= ask.choices <= choices for ask in asks)
