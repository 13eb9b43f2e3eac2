"""A gap is not 0: what Prometheus makes of each panel where nobody tells it anything, or where nobody asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from monitoring import labels, metrics
from monitoring.boards.all import BOARDS
from monitoring.panel_values import concrete
from monitoring.specs import AnySpec, HistogramSpec
from tests.monitoring.test_boards import RULES, names
from tests.monitoring.test_rules import promtool

LONG = "x20"
NODE = 'model="pico", instance="10.0.0.1:9464"'


def expressions() -> list[tuple[str, str, str]]:
    """Panel, unit and query of each query on a board that asks for series of ours."""
    return [
        (panel.title, panel.unit, concrete(query))
        for board in BOARDS
        for panel in board.panels
        for query, _ in panel.queries
        if any(name.startswith("starcoder") for name in names(query))
    ]


def shows_nothing(tmp_path: Path, queries: list[str], series: dict[str, str]) -> None:
    """Has Prometheus evaluate the queries after some minutes of these series: none has a number."""
    checks = [{"expr": f"({query}) == ({query})", "eval_time": "5m", "exp_samples": []} for query in queries]
    given = [{"series": name, "values": values} for name, values in series.items()]
    file = tmp_path / "absence.yaml"
    case: dict[str, Any] = {"interval": "15s", "input_series": given, "promql_expr_test": checks}
    rules = [str(path) for path in sorted(RULES.glob("*.yaml"))]
    file.write_text(yaml.safe_dump({"rule_files": rules, "evaluation_interval": "15s", "tests": [case]}))
    assert "SUCCESS" in promtool("test", "rules", str(file))


SELECTED = {"outcome": labels.OUTCOMES, "event": labels.COMPLETION_EVENT_KINDS}
"""Labels by whose values panels choose."""


def told(spec: AnySpec) -> list[str]:
    """The series of a metric, one for each value that a panel may choose."""
    free = ", ".join([NODE, *(f'{label}="a"' for label in spec.labels if label not in ("model", *SELECTED))])
    chosen = [f'{label}="{value}"' for label in spec.labels if label in SELECTED for value in SELECTED[label]]
    if isinstance(spec, HistogramSpec):
        bounds = [*(str(float(bound)) for bound in spec.buckets), "+Inf"]
        buckets = [f'{spec.bucket}{{{free}, le="{bound}"}}' for bound in bounds]
        return [f"{spec.sum}{{{free}}}", f"{spec.count}{{{free}}}", *buckets]
    return [f"{spec.full_name}{{{', '.join([free, *value])}}}" for value in ([[one] for one in chosen] or [[]])]


def test_boards_show_nothing_while_no_exporter_is_reached(tmp_path: Path) -> None:
    """0% failed, 0 engines and 0 open requests would all be taken for what they are not."""
    shows_nothing(
        tmp_path,
        [query for _, _, query in expressions()],
        {'up{job="starcoder", instance="10.0.0.1:9464"}': f"0+0{LONG}"},
    )


def test_shares_and_ratios_show_nothing_while_nobody_asks(tmp_path: Path) -> None:
    """0% of prefixes found is what a broken router looks like."""
    shares = [query for _, unit, query in expressions() if unit in ("percentunit", "x") and "/" in query]
    assert len(shares) > 8
    gauges = {metrics.READ_BYTES_LIMIT, metrics.FLOPS_LIMIT}
    flat = {series: f"7+0{LONG}" for spec in metrics.declared() if spec not in gauges for series in told(spec)}
    shows_nothing(tmp_path, shares, flat)
