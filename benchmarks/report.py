"""What every benchmark hands back, and how it is shown."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, versions

Row = tuple[str, ...]


@dataclass
class Result:
    """metrics: what was measured, names with their units. samples: every observation in seconds, for plots.

    settings: what it was run with. tables: more tables to print, by title; the first row is the head.
    bars: values by name, for plots of things that are no distribution. whiskers: the ends of intervals around them,
    where they have some. details: what else belongs into the JSON.
    curves: lines by panel and name, of (x, y), for plots; axes: what x and y are. shows_metrics: in the text, too; the
    tables may say it all. simulated: it is the same on every machine, and on every day.
    """

    benchmark: str
    settings: dict[str, Any]
    metrics: dict[str, Any]
    samples: dict[str, list[float]] = field(default_factory=dict)
    tables: dict[str, list[Row]] = field(default_factory=dict)
    bars: dict[str, dict[str, float]] = field(default_factory=dict)
    whiskers: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    curves: dict[str, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)
    axes: tuple[str, str] = ("", "")
    details: list[dict[str, Any]] = field(default_factory=list)
    shows_metrics: bool = True
    simulated: bool = False

    def to_json(self) -> dict[str, Any]:
        here = {
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": describe_machine(),
            "versions": versions(),
        }
        return {
            "benchmark": self.benchmark,
            **({} if self.simulated else here),
            "settings": self.settings,
            "metrics": self.metrics,
            "samples": self.samples,
            **({"details": self.details} if self.details else {}),
        }

    def write(self, path: Path) -> None:
        """At once: whoever reads the file finds this result or the one before."""
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_name(f"{path.name}.new")
        whole.write_text(json.dumps(self.to_json(), indent=1) + "\n")
        whole.replace(path)

    def text(self) -> str:
        """A table of the metrics, then the others."""
        rows = [("metric", "value"), *((name, number(value)) for name, value in self.metrics.items())]
        parts = [f"{self.benchmark}\n{table(rows)}"] if self.metrics and self.shows_metrics else []
        parts += [f"{title}\n{table(more)}" for title, more in self.tables.items()]
        return "\n\n".join(parts)


def add_output_arguments(parser: argparse.ArgumentParser, picture: str, default: Any = None) -> None:
    """picture: what `--plot` draws; empty: there is no such option, or it would fail after minutes of measuring.

    default: of each; where a command has commands below it, these leave alone what was said before their names.
    """
    parser.add_argument("--output", type=Path, default=default, help="write the result as JSON")
    if picture:
        what = f"draw {picture}, as PNG or SVG (needs the extra `bench`)"
        parser.add_argument("--plot", type=Path, metavar="FILE", default=default, help=what)
    else:
        parser.set_defaults(plot=None)


def number(value: Any) -> str:
    """Four significant digits, thousands separated; what is no number as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def table(rows: Sequence[Row]) -> str:
    """Aligned text; the first row is the head, the first column stands left and all others right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(_cell(c, widths[i], left=i == 0) for i, c in enumerate(row)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def _cell(text: str, width: int, *, left: bool) -> str:
    return text.ljust(width) if left else text.rjust(width)


def markdown_table(rows: Sequence[Row]) -> str:
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))
