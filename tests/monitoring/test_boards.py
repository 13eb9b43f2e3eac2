"""The boards: as committed, well formed, and about metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import promql_parser
import pytest
import yaml

from deployments.command.boards import files
from monitoring import metrics
from monitoring.boards.all import BOARDS
from monitoring.boards.panel import Board, Panel
from monitoring.boards.promql import share_below
from monitoring.specs import HistogramSpec

ROOT = Path(__file__).parents[2]
RULES = ROOT / "monitoring" / "rules"
PANELS = [(board, panel) for board in BOARDS for panel in board.panels]
EACH_PANEL = pytest.mark.parametrize(("board", "panel"), PANELS, ids=[f"{b.uid}: {p.title}" for b, p in PANELS])

SERIES = {
    name
    for spec in metrics.declared()
    for name in ([spec.bucket, spec.sum, spec.count] if isinstance(spec, HistogramSpec) else [spec.full_name])
}


def recorded() -> set[str]:
    groups = yaml.safe_load((RULES / "recording.yaml").read_text())["groups"]
    return {rule["record"] for group in groups for rule in group["rules"]}


def names(expression: str) -> set[str]:
    """Of the series that an expression reads. Raises ValueError where it does not parse."""
    concrete = re.sub(r"\$__\w+", "5m", expression)
    promql_parser.parse(concrete)
    without_strings = re.sub(r'"[^"]*"', '""', concrete)
    return set(re.findall(r"\b(?:starcoder[_:]|ray_)[\w:]+", without_strings))


def test_what_is_committed_is_what_is_generated() -> None:
    made = files()
    assert len(made) > 8
    for path, text in made.items():
        assert (ROOT / path).read_text() == text, f"{path}: run `make boards`"


@EACH_PANEL
def test_every_expression_parses_and_names_what_exists(board: Board, panel: Panel) -> None:
    assert panel.queries
    for expression, _ in panel.queries:
        for name in names(expression):
            assert name in SERIES or name in recorded() or name.startswith("ray_"), name


@EACH_PANEL
def test_every_panel_is_explained(board: Board, panel: Panel) -> None:
    assert len(panel.description) > 20
    assert panel.description.endswith((".", "?"))
    assert panel.unit
    values = [value for value, _ in panel.thresholds]
    assert values == sorted(values)


def test_every_declared_metric_is_on_a_board_or_in_an_alert() -> None:
    text = " ".join(query for _, panel in PANELS for query, _ in panel.queries)
    text += (RULES / "alerts.yaml").read_text() + (RULES / "recording.yaml").read_text()
    for spec in metrics.declared():
        assert spec.full_name in text, f"nobody looks at {spec.full_name}"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_grafana_gets_panels_variables_and_links(board: Board) -> None:
    made = json.loads((ROOT / "monitoring" / "dashboards" / f"{board.uid}.json").read_text())
    panels = [panel for panel in made["panels"] if panel["type"] != "row"]
    assert [panel["title"] for panel in panels] == [panel.title for panel in board.panels]
    assert all(panel["fieldConfig"]["defaults"]["unit"] for panel in panels)
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(places)) == len(places), "panels lie on each other"
    variables = {variable["name"] for variable in made["templating"]["list"]}
    assert variables == {"datasource", *board.variables}
    used = set(re.findall(r"\$(\w+)", " ".join(query for panel in board.panels for query, _ in panel.queries)))
    assert {name for name in used if not name.startswith("__")} <= variables
    assert made["links"]


def test_a_bound_that_is_no_bucket_is_refused() -> None:
    with pytest.raises(ValueError, match="no bucket"):
        share_below(metrics.TIME_TO_FIRST_TOKEN, 0.51)
