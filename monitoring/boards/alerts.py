"""The table of the alerts in docs/observability.md, made from monitoring/rules/alerts.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import yaml

BEGIN = "<!-- made from monitoring/rules/alerts.yaml by `make boards`; edit that -->"
END = "<!-- end of the alerts -->"

RULES = Path(__file__).parents[1] / "rules" / "alerts.yaml"

UNITS = {"s": "s", "m": "min", "h": "h"}

Alert = TypedDict(
    "Alert", {"alert": str, "expr": str, "for": str, "labels": dict[str, str], "annotations": dict[str, str]}
)


def alerts() -> list[Alert]:
    """As they are written, in their order."""
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    rules: list[Alert] = group["rules"]
    return rules


def with_alerts(page: str) -> str:
    """The page with today's table. Raises ValueError where it has no place for it."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError("docs/observability.md has lost the comments around the alerts")
    lines = ["| alert | what it means | | how soon |", "| --- | --- | --- | --- |", *map(_line, alerts())]
    return "\n".join([f"{before}{BEGIN}", "", *lines, "", f"{END}{after}"])


def _line(alert: Alert) -> str:
    name, severity = alert["alert"], alert["labels"]["severity"]
    link = f"[{name.removeprefix('Starcoder')}](runbook.md#{name.lower()})"
    meaning = alert["annotations"]["summary"].removesuffix(".").replace("|", r"\|")
    return f"| {link} | {meaning} | {severity} | {_after(alert['for'])} |"


def _after(held: str) -> str:
    number, unit = held[:-1], held[-1]
    return f"after {number} {UNITS[unit]}" if int(number) else "at once"
