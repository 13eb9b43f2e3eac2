"""The table of docs/on-call.md, made from benchmarks/results/drill.json: `python -m benchmarks.drill.table`."""

from __future__ import annotations

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


def markdown(findings: Sequence[Finding]) -> str:
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
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{_where(findings)}"


def _where(findings: Sequence[Finding]) -> str:
    """When and on what each was run."""
    ran: dict[tuple[str, str], list[str]] = {}
    for failure in FAILURES:
        for finding in findings:
            if finding.failure == failure.name:
                ran.setdefault((finding.date, finding.machine), []).append(failure.title)
    if len(ran) == 1:
        ((date, machine),) = ran
        return f"Run on {date}, on {machine}."
    return (
        "\n".join(f"- {'; '.join(titles)}: on {date}, on {machine}." for (date, machine), titles in ran.items())
        or "Not run yet."
    )


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


def written(document: str, table: str) -> str:
    """The document with this table in the place of the one before."""
    before, _, rest = document.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text(), markdown(read(RESULTS))))
