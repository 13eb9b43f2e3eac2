"""What thousands of keys cost, with few of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import build_parser
from benchmarks.server import directory


def test_every_figure_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "LOOK_UPS", 50)
    url = f"sqlite+aiosqlite:///{tmp_path / 'teams.sqlite'}"
    options = build_parser("directory").parse_args(["directory", "--teams", "3", "--keys", "10", "--database", url])
    metrics = options.run(options).metrics
    assert set(metrics) == {
        *("first_reading_ms", "loop_held_ms", "memory_mib", "nothing_new_ms"),
        *("first_look_up_us", "look_up_us", "no_key_us"),
    }
    assert metrics["look_up_us"] > 0
    assert metrics["first_reading_ms"] > metrics["nothing_new_ms"] > 0
