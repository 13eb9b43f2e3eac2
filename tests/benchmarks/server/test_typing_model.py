"""Properties of the schedule that people type by."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.server.typing_model import TypingModel, keystrokes, pauses, strokes
from benchmarks.sources import choose_edit, source_files

texts = st.text(alphabet="ab \t\n(漢", max_size=200)
models = st.builds(
    TypingModel,
    interval=st.floats(0.01, 2),
    sigma=st.floats(0, 1.5),
    pause_probability=st.floats(0, 1),
    debounce=st.floats(0, 2),
)


@given(texts, models, st.integers())
def test_a_session_types_the_whole_text_in_order(text: str, model: TypingModel, seed: int) -> None:
    session = keystrokes(text, model, seed)
    assert session == keystrokes(text, model, seed)
    assert sum(strokes(text)) == len(text)
    assert [k.typed for k in session] == sorted({k.typed for k in session})
    assert [k.at for k in session] == sorted(k.at for k in session)
    assert (session[-1].typed if session else 0) == len(text)


@given(texts, models, st.integers())
def test_completions_are_asked_for_at_pauses_and_nowhere_else(text: str, model: TypingModel, seed: int) -> None:
    session = keystrokes(text, model, seed)
    asked = pauses(session, model.debounce)
    keys = {k.typed: k for k in session}
    following = dict(pairwise(session))
    for pause in asked:
        key = keys[pause.typed]
        assert pause.at == key.at + model.debounce
        assert pause.next_key == (following[key].at if key in following else None)
        assert pause.next_key is None or pause.next_key - key.at > model.debounce
    assert len(asked) == sum(k not in following or following[k].at - k.at > model.debounce for k in session)
    if session:
        assert asked[-1].typed == len(text)
        assert asked[-1].next_key is None


@given(st.text(alphabet="ab\n ", min_size=1, max_size=300), st.integers(1, 40), st.integers())
def test_an_edit_is_the_file_with_whole_lines_missing(text: str, lines: int, seed: int) -> None:
    edit = choose_edit("x.py", text, lines, seed)
    assert edit.before + edit.typed + edit.after == text
    assert edit.typed.count("\n") < lines


def test_indentation_comes_with_the_newline() -> None:
    assert list(strokes("a\n    b\n\n\tc")) == [1, 5, 1, 1, 2, 1]


def test_intervals_have_the_mean_and_the_spread_of_the_model() -> None:
    model = TypingModel(interval=0.239, sigma=0.6, pause_probability=0)
    session = keystrokes("x" * 20_000, model, 1)
    gaps = [b.at - a.at for a, b in pairwise(session)]
    assert statistics.mean(gaps) == pytest.approx(0.239, rel=0.03)
    assert statistics.stdev(map(math.log, gaps)) == pytest.approx(0.6, rel=0.03)


def test_people_think_after_newlines() -> None:
    text = "x\n" * 5_000
    hasty = keystrokes(text, TypingModel(pause_probability=0), 1)[-1].at
    thoughtful = keystrokes(text, TypingModel(pause_probability=0.5, pause=2.0), 1)[-1].at
    assert thoughtful - hasty == pytest.approx(0.5 * 2.0 * 5_000, rel=0.1)


@pytest.mark.parametrize("fields", [{"interval": 0}, {"sigma": -1}, {"pause_probability": 1.1}, {"debounce": -0.1}])
def test_a_model_that_cannot_be_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        TypingModel(**fields)


def test_source_files(tmp_path: Path) -> None:
    assert all(path.is_file() for path in source_files([]))
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "b.md").write_text("no")
    assert source_files([tmp_path]) == [tmp_path / "a.py"]
    with pytest.raises(ValueError, match="no source files"):
        source_files([tmp_path / "nothing"] if (tmp_path / "nothing").mkdir() is None else [])
