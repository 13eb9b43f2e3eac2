"""The table of docs/on-call.md, made from benchmarks/results/drill.json: `python -m benchmarks.drill.table`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.drill.failures import FAILURES
from benchmarks.drill.finding import Finding, PanelSeen, read
from benchmarks.drill.quantities import quantity
from benchmarks.report import Row

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "on-call.md"
RESULTS = ROOT / "benchmarks" / "results" / "drill.json"
BEGIN = "<!-- made by `python -m benchmarks.drill.table` from benchmarks/results/drill.json -->"
END = "<!-- end of the table -->"

HEAD = ("what happens", "what shows it: before, during", "alerts, seconds after it")
NOT_RUN = "not run yet"


def tables(findings: Sequence[Finding]) -> dict[str, list[Row]]:
    """For a terminal, by title."""
    alerted = [(finding.failure, alerts(finding)) for finding in findings]
    shown = [(finding.failure, *_cells(seen)) for finding in findings for seen in finding.panels]
    return {
        "alerts, seconds after the failure": [("failure", "alerts"), *alerted],
        "panels": [("failure", "panel", "before", "during"), *shown],
    }


def markdown(findings: Sequence[Finding], machine: str) -> str:
    """Every failure of the table, in its order, those that were not run too; and when and where the others were."""
    known = {finding.failure: finding for finding in findings}
    lines = [HEAD, ("---",) * 3]
    for failure in FAILURES:
        what = f"**{failure.title}**: {failure.how}"
        finding = known.get(failure.name)
        if finding is None:
            lines.append((what, NOT_RUN, ""))
        else:
            lines.append((what, "<br>".join(map(_panel, finding.panels)), alerts(finding).replace("; ", "<br>")))
    dates = sorted({finding.date for finding in findings})
    ran = f"Run on {' and '.join(dates)}, on {machine}." if dates else "Not run yet."
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{ran}"


def alerts(finding: Finding) -> str:
    """What fired and how soon, and what did not go as expected."""
    fired = [
        f"{one.name}{' (page)' if one.severity == 'page' else ''} {one.firing_s:.0f} s"
        for one in sorted(finding.alerts, key=lambda one: one.firing_s or 0.0)
        if one.firing_s is not None
    ]
    wrong = [f"**{name} did not fire within {finding.watched_s:.0f} s**" for name in finding.missing]
    wrong += [f"**{name} should not fire**" for name in finding.unexpected]
    return "; ".join([*fired, *wrong]) or f"rightly none within {finding.watched_s:.0f} s"


def _panel(seen: PanelSeen) -> str:
    title, before, during = _cells(seen)
    return f"{title}: {before} → {during}" if seen.lines else f"{title}: {during}"


def _cells(seen: PanelSeen) -> tuple[str, str, str]:
    """Title, before and during, of the line that shows most."""
    if not seen.lines:
        return seen.title, "nothing", "nothing"
    line = seen.lines[0]
    named = f" ({line.legend})" if line.legend and len(seen.lines) > 1 else ""
    during = "gone" if line.gone else quantity(line.during, seen.unit)
    return seen.title + named, quantity(line.before, seen.unit), during


def machine_of(path: Path) -> str:
    """Of a result that was written."""
    found = json.loads(path.read_text())["machine"]
    return f"{found['cores']} cores of {found['cpu']}"


def written(document: str, table: str) -> str:
    """The document with this table in the place of the one before."""
    before, _, rest = document.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text(), markdown(read(RESULTS), machine_of(RESULTS))))
