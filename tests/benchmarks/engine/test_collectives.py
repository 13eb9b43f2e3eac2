"""What sums of ranks take, by a star of sockets and by gloo."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from tests.support.ranks import FORKS

SMALL = ["collectives", "--ranks", "3", "--rows", "1", "5", "--width", "16", "--milliseconds", "1"]


def test_both_ways_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: FORKS)  # which has imported everything
    assert main([*SMALL, "--output", str(tmp_path / "found.json")]) == 0
    head, _, first, second = capsys.readouterr().out.splitlines()[1:]
    assert head.split()[:2] == ["rows", "KiB"]
    for line, rows in ((first, 1), (second, 5)):
        count, kib, star, gloo, ratio = map(float, line.replace(",", "").split())
        assert (count, kib) == (rows, pytest.approx(rows * 16 * 2 / 1024, rel=1e-3))
        assert star > 0
        assert ratio == pytest.approx(gloo / star, rel=2e-3)
    assert '"3 ranks, 5 rows: gloo_us"' in (tmp_path / "found.json").read_text()


def test_a_rank_that_ends_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: FORKS)
    assert main([*SMALL, "--width", "-1"]) == 1
    assert "a rank has ended" in capsys.readouterr().err


def test_one_rank_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collectives", "--ranks", "1"]) == 2
    assert "--ranks" in capsys.readouterr().err
