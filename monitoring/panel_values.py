"""What each panel of the boards shows now: asks a Prometheus, writes a table.

`python -m monitoring.panel_values --prometheus http://127.0.0.1:9090` beside `make monitor`.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from monitoring.boards.all import BOARDS
from monitoring.boards.panel import Board, Panel

WINDOW = "1m"


@dataclass(frozen=True)
class Shown:
    """values: (the series' labels, its value), of all of the panel's queries; NaN left out."""

    board: Board
    panel: Panel
    values: tuple[tuple[str, float], ...]
    empty_queries: int

    @property
    def complete(self) -> bool:
        """Every query of the panel found something."""
        return not self.empty_queries


def concrete(expression: str, window: str = WINDOW) -> str:
    """The expression with Grafana's variables replaced: every value, and `window` for intervals."""
    return re.sub(r"\$\w+", ".*", re.sub(r"\$__\w+", window, expression))


def ask(url: str, expression: str) -> list[tuple[str, float]]:
    """An instant query: (labels, value). Raises OSError, and ValueError with Prometheus' reason where it refuses."""
    query = urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query?{query}", timeout=30) as answer:
            result = json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        raise ValueError(f"{expression}: {json.load(error)['error']}") from error
    found = []
    for series in result:
        labels = ", ".join(f"{name}={value}" for name, value in sorted(series["metric"].items()))
        number = float(series["value"][1])
        if not math.isnan(number):
            found.append((labels, number))
    return found


def shown(url: str, boards: Iterable[Board], window: str = WINDOW) -> list[Shown]:
    """What every panel of the boards shows."""
    rows = []
    for board in boards:
        for panel in board.panels:
            answers = [ask(url, concrete(expression, window)) for expression, _ in panel.queries]
            values = tuple(pair for answer in answers for pair in answer)
            rows.append(Shown(board, panel, values, sum(not answer for answer in answers)))
    return rows


def table(rows: Iterable[Shown]) -> str:
    """Markdown: one line a panel with the first values of its series."""
    lines = ["| board | panel | unit | series | values |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        values = ", ".join(f"{value:.4g}" for _, value in row.values[:6]) + (", ..." if len(row.values) > 6 else "")
        board = row.board.title.partition(": ")[2]
        shown_values = values or f"none ({row.panel.needs})"
        lines.append(f"| {board} | {row.panel.title} | {row.panel.unit} | {len(row.values)} | {shown_values} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m monitoring.panel_values", description=__doc__)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="its address (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="write the table there")
    options = parser.parse_args(arguments)
    text = table(shown(options.prometheus, BOARDS))
    print(text, end="")
    if options.output is not None:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
