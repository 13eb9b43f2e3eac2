"""The boards as Grafana would lay them out, with what they showed before and during a failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.drill.observed import Points
from benchmarks.drill.panels import GONE_S, RATE_INTERVAL, STEP_S, legend_of
from benchmarks.drill.quantities import quantity
from benchmarks.drill.watching import Watch
from benchmarks.plots import pyplot
from monitoring.boards.all import dashboards
from monitoring.panel_values import concrete

WIDTH_IN = 15.0
UNIT_IN = 0.24
COLUMNS = 24
DPI = 72
MOST_LEGENDS = 6
MARK = 1.5
"""Points of a sample that stands between gaps."""
COLOURS = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c"}

Lines = list[tuple[str, Points]]
"""Legend and points of each."""


def draw_boards(watch: Watch, healthy_at: float, directory: Path, name: str) -> None:
    """`NAME-BOARD.png` for each board, from `healthy_at` (Unix seconds) on, zero being the failure.

    Grid, expressions, units and thresholds are those of Grafana's own files. Raises PlotError without matplotlib.
    """
    directory.mkdir(parents=True, exist_ok=True)
    span = (healthy_at - watch.began_at, watch.ended_at - watch.began_at)
    for path, text in dashboards().items():
        board = json.loads(text)
        lines = [_asked(panel, watch, healthy_at) for panel in board["panels"]]
        draw(board, lines, span, directory / f"{name}-{path.stem}.png")


def _asked(panel: dict[str, Any], watch: Watch, start: float) -> Lines:
    began, end = watch.began_at, watch.ended_at
    return [
        (legend_of(target["legendFormat"], series.labels), [(at - began, value) for at, value in series.points])
        for target in panel.get("targets", ())
        for series in watch.observed.curves(concrete(target["expr"], RATE_INTERVAL), start, end, STEP_S)
    ]


def draw(board: dict[str, Any], lines: list[Lines], span: tuple[float, float], path: Path) -> None:
    """board: Grafana's. lines: of each of its panels. span: seconds."""
    plt = pyplot()
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) + 2
    figure = plt.figure(figsize=(WIDTH_IN, UNIT_IN * height))
    figure.text(0.01, 1 - 1.2 / height, board["title"], fontsize=14, weight="bold", va="center")
    for panel, asked in zip(board["panels"], lines, strict=True):
        place = panel["gridPos"]
        left, top = place["x"] / COLUMNS, 1 - (place["y"] + 2) / height
        if panel["type"] == "row":
            figure.text(left + 0.01, top - 0.6 / height, panel["title"], fontsize=11, weight="bold", va="center")
            continue
        # room for the values at the left, the title above, and the times and the legend below
        corner = (left + 1.2 / COLUMNS, top - (place["h"] - 2.0) / height)
        axis = figure.add_axes((*corner, (place["w"] - 1.5) / COLUMNS, (place["h"] - 3.2) / height))
        axis.set_title(panel["title"], fontsize=9, loc="left")
        _fill(axis, panel, asked, span)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def _fill(axis: Any, panel: dict[str, Any], lines: Lines, span: tuple[float, float]) -> None:
    unit, custom = panel["fieldConfig"]["defaults"]["unit"], panel["fieldConfig"]["defaults"].get("custom", {})
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    lines = [(legend, points) for legend, points in lines if points]
    if not lines:
        axis.text(0.5, 0.5, "No data", ha="center", va="center", transform=axis.transAxes, color="gray")
        axis.set_axis_off()
    elif panel["type"] == "stat":
        _number(axis, lines[0][1], unit, steps, span[1])
    else:
        _curves(axis, lines, unit, steps, span, stacked="stacking" in custom)


def _number(axis: Any, points: Points, unit: str, steps: list[dict[str, Any]], end: float) -> None:
    """The last value, as a stat panel has it."""
    at, value = points[-1]
    fresh = at > end - GONE_S
    passed = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    text = quantity(value, unit) if fresh else "No data"
    axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=22, color=COLOURS.get(passed[-1], "black"))
    axis.set_axis_off()


def _curves(
    axis: Any, lines: Lines, unit: str, steps: list[dict[str, Any]], span: tuple[float, float], *, stacked: bool
) -> None:
    below: dict[float, float] = {}
    for legend, points in lines:
        if stacked:
            points = [(at, below.get(at, 0.0) + value) for at, value in points]
        times, values = zip(*_with_gaps(points), strict=True)
        (drawn,) = axis.plot(times, values, ".-", linewidth=1, markersize=MARK, label=legend or None)
        if stacked:
            base = [below.get(at, 0.0) for at in times]
            axis.fill_between(times, base, values, alpha=0.4, color=drawn.get_color())
            below |= dict(points)
    top = axis.get_ylim()[1]
    for step in steps:
        if step["value"] is not None and step["value"] <= top:
            axis.axhline(step["value"], color=COLOURS.get(step["color"], step["color"]), linestyle="--", linewidth=0.8)
    axis.axvline(0.0, color="black", linewidth=0.8, alpha=0.5)
    _from_zero(axis, lines)
    axis.set(xlim=span)
    axis.yaxis.set_major_formatter(lambda value, _: quantity(value, unit))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0f} s")
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.25)
    if handles := _named(axis):
        axis.legend(
            handles=handles, fontsize=6, loc="upper left", bbox_to_anchor=(-0.02, -0.17), ncols=3, frameon=False
        )


def _from_zero(axis: Any, lines: Lines) -> None:
    """What is never below 0 is drawn from there on, and what is nothing else along the bottom."""
    values = [value for _, points in lines for _, value in points]
    if min(values) >= 0:
        axis.set_ylim(0, axis.get_ylim()[1] if max(values) > 0 else 1)


def _named(axis: Any) -> list[Any]:
    """The lines that have a legend; where these are many, those that are something else than 0."""
    handles, _ = axis.get_legend_handles_labels()
    if len(handles) > MOST_LEGENDS:
        handles = [line for line in handles if any(value > 0 for value in line.get_ydata())] or handles
    return list(handles[:MOST_LEGENDS])


def _with_gaps(points: Points) -> Points:
    """With a break in the line wherever samples are missing."""
    found: Points = []
    for at, value in points:
        if found and at - found[-1][0] > 1.5 * STEP_S:
            found.append((at, float("nan")))
        found.append((at, value))
    return found
