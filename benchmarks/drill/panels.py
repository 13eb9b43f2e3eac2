"""What panels of the boards showed before a failure and during it, by their own expressions."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.drill.observed import Observed, Points
from monitoring.boards.all import BOARDS
from monitoring.boards.panel import Board, Panel
from monitoring.panel_values import concrete

RATE_INTERVAL = "20s"
"""What Grafana makes of `$__rate_interval` where scrapes are 5 s apart: four of them."""

STEP_S = 5.0
GONE_S = 3 * STEP_S


@dataclass(frozen=True)
class Shown:
    """One line of a panel. before: its median; during: what was furthest from that. None: nothing was shown.

    gone: it had ended when the watch did.
    """

    legend: str
    before: float | None
    during: float | None
    gone: bool = False

    @property
    def change(self) -> float:
        """How much there is to see, to find the line that shows most."""
        if self.before is None or self.during is None:
            return float(self.before is not self.during)
        largest = max(abs(self.before), abs(self.during))
        return abs(self.during - self.before) / largest if largest else 0.0


def panel(title: str) -> tuple[Board, Panel]:
    """Raises ValueError where no board has it."""
    found = [(board, panel) for board in BOARDS for panel in board.panels if panel.title == title]
    if not found:
        raise ValueError(f"no board has a panel {title!r}")
    return found[0]


def shown(observed: Observed, panel: Panel, healthy_at: float, began_at: float, ended_at: float) -> list[Shown]:
    """Every line of it, those that show most first. healthy_at: since when all was well. All are Unix seconds."""
    lines = [
        line(legend_of(legend, series.labels), series.points, began_at, ended_at)
        for expression, legend in panel.queries
        for series in observed.curves(concrete(expression, RATE_INTERVAL), healthy_at, ended_at, STEP_S)
    ]
    return sorted(lines, key=lambda one: -one.change)


def line(legend: str, points: Points, began_at: float, ended_at: float) -> Shown:
    earlier = [value for at, value in points if at < began_at]
    later = [value for at, value in points if at >= began_at]
    before = statistics.median(earlier) if earlier else None
    during = max(later, key=lambda value: abs(value - (before or 0.0))) if later else None
    gone = bool(points) and points[-1][0] < ended_at - GONE_S
    return Shown(legend, before, during, gone)


def legend_of(text: str, labels: Mapping[str, str]) -> str:
    """As Grafana fills it in."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), text).strip()
