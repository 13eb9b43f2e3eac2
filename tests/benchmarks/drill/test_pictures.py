"""A board as a picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.drill import pictures
from benchmarks.drill.failure import Expected
from benchmarks.drill.observed import Series
from benchmarks.drill.watching import Watch
from monitoring.boards.panel import Board, Panel, Row
from monitoring.boards.render import to_json
from tests.support.drilled import FakePrometheus, FakeTime

PANELS = (
    Panel("Requests", "", (("requests", "{{outcome}}"),), "reqps", stacked=True),
    Panel("Failed", "", (("failed", ""),), "percentunit", thresholds=((0.5, "red"),)),
    Panel("Now", "", (("now", ""),), "percentunit", kind="stat", thresholds=((0.5, "red"),)),
)
BOARD = Board("small", "Small", "", (Row("All", PANELS),))


def test_a_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every expression is asked over the whole time, and what comes is drawn."""
    monkeypatch.setattr(pictures, "dashboards", lambda: {Path("boards/small.json"): to_json(BOARD)})
    points = [(float(at), 1.0) for at in range(0, 200, 5) if not 50 < at < 90]
    observed = FakePrometheus(FakeTime(), shows=[Series({"outcome": name}, points) for name in ("ok", "shed")])
    watch = replace(Watch(observed, Expected((), 100.0), began_at=100.0), ended_at=200.0)
    pictures.draw_boards(watch, 0.0, tmp_path / "new", "fire")
    assert (tmp_path / "new" / "fire-small.png").read_bytes().startswith(b"\x89PNG")
    assert observed.asked == [(expression, 0.0, 200.0, 5.0) for expression in ("requests", "failed", "now")]


def test_the_boards_that_grafana_gets_can_be_drawn(tmp_path: Path) -> None:
    """Without anything to show, and without drawing: places, units and thresholds are where they are looked for."""
    for text in pictures.dashboards().values():
        for panel in json.loads(text)["panels"]:
            assert {"x", "y", "w", "h"} <= panel["gridPos"].keys()
            if panel["type"] != "row":
                defaults = panel["fieldConfig"]["defaults"]
                assert defaults["thresholds"]["steps"][0]["value"] is None
                assert {step["color"] for step in defaults["thresholds"]["steps"]} <= pictures.COLOURS.keys()
