"""What a board is, before Grafana's JSON is made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["timeseries", "stat", "bargauge", "heatmap"]


@dataclass(frozen=True)
class Panel:
    """queries: (PromQL, legend). thresholds: (from this value on, colour); the first colour is below them all.

    unit: Grafana's id of one. needs: what it shows nothing without, on a healthy machine; None: it must show something.
    stacked: the series add up to a whole.
    """

    title: str
    description: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: Kind = "timeseries"
    thresholds: tuple[tuple[float, str], ...] = ()
    needs: str | None = None
    stacked: bool = False
    width: int = 8


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Board:
    """uid: of its address in Grafana, and the name of its file. variables: label -> metric that has its values."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for row in self.rows for panel in row.panels)
