"""The drafts of the drill are the product's until they are broken, and then they stay long, however wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.drill import switch
from benchmarks.drill.stubborn_drafts import StubbornSpeculator
from model.scheduling.speculation import Speculator

TOKENS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2]


def drafts(speculator: Speculator) -> list[int]:
    """Lengths of drafts of which nothing turns out right."""
    lengths = []
    for _ in range(20):
        lengths.append(len(speculator.draft(TOKENS)))
        speculator.learn(lengths[-1], 0)
    return lengths


def test_only_broken_ones_learn_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in switch.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    assert drafts(StubbornSpeculator(8)) == drafts(Speculator(8))
    assert drafts(Speculator(8)).count(0) > 10
    switch.switch_in(tmp_path, "drafts").touch()
    assert drafts(StubbornSpeculator(8)) == [2, 4] + [8] * 18
