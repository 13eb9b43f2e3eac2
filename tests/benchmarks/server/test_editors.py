"""The table of people who type: a server a cell, each once."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.report import Result
from benchmarks.server import editors, keystrokes
from benchmarks.servers import REAL, Server


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The options of the servers that were started; on the third one the machine fails."""
    found: list[list[str]] = []

    @contextlib.contextmanager
    def real(options: Sequence[str]) -> Iterator[Server]:
        found.append(list(options))
        if len(found) == 3:
            raise RuntimeError("no room")
        yield Server(REAL, 1, 1, Path())

    async def measure(options: argparse.Namespace) -> Result:
        return Result("keystrokes", {}, {"requests": options.editors, "percent_line_in_time": 50.0})

    monkeypatch.setattr(editors, "real", real)
    monkeypatch.setattr(keystrokes, "measure", measure)
    return found


def options(work: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    editors.add_arguments(parser)
    return parser.parse_args(["--work", str(work), "--editors", "1", "2", "--models", "pico", "tiny", *more])


def test_what_is_finished_is_not_measured_again(tmp_path: Path, started: list[list[str]]) -> None:
    with pytest.raises(RuntimeError, match="no room"):
        editors.run(options(tmp_path))
    assert [given[1] for given in started] == ["pico", "pico", str(tmp_path / "tiny")]
    assert "random" in started[2]
    result = editors.run(options(tmp_path))
    assert len(started) == 5
    (rows,) = result.tables.values()
    assert [row[:4] for row in rows[1:]] == [
        ("pico", "auto", "1", "1"),
        ("pico", "auto", "2", "2"),
        ("tiny", "auto", "1", "1"),
        ("tiny", "auto", "2", "2"),
    ]
    assert (tmp_path / "tiny" / "tokenizer.json").is_file()


def test_other_options_are_another_cell(tmp_path: Path, started: list[list[str]]) -> None:
    editors.run(options(tmp_path, "--models", "pico", "--editors", "1"))
    editors.run(options(tmp_path, "--models", "pico", "--editors", "1", "--max-tokens", "16"))
    assert len(started) == 2
