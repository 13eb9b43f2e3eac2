"""`python -m benchmarks drill`: real failures, a real Prometheus, and what somebody on call sees of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.drill.drilling import Times, drill
from benchmarks.drill.failure import Failure, rounds
from benchmarks.drill.failures import FAILURES, QUICK, chosen
from benchmarks.drill.finding import Finding, find, read, to_json
from benchmarks.drill.panels import panel
from benchmarks.drill.pictures import draw_boards
from benchmarks.drill.stand import place
from benchmarks.drill.table import tables
from benchmarks.drill.watching import Clock, Watch
from benchmarks.plots import pyplot
from benchmarks.report import Result

SCRAPE_S = 5.0
QUICK_S = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=", ".join(f.name for f in FAILURES))
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw the boards of each failure there, as PNG")
    parser.add_argument("--healthy", type=float, default=60.0, help="seconds before each failure")
    parser.add_argument("--together", type=int, default=4, help="failures at a time, of those that take no load")
    parser.add_argument("--quick", action="store_true", help="one failure in two minutes, to see that it works")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> Result:
    """Raises ValueError for what is no failure. RuntimeError at the end where some could not be tried.

    `--output` is written after each failure; what it holds of others stays.
    """
    failures = chosen(options.only or ([QUICK] if options.quick else []))
    for title in (title for failure in failures for title in failure.panels):
        panel(title)  # before minutes of drilling, not after
    if options.plots is not None:
        pyplot()
    report = _Report(options)
    times = Times(QUICK_S, QUICK_S) if options.quick else Times(options.healthy)
    for together in rounds(failures, options.together):
        say(", ".join(failure.title for failure in together))
        drill(together, lambda failure: place(failure, options.seed, SCRAPE_S), times, Clock(), report)
    if report.refused:
        raise RuntimeError("not tried: " + ", ".join(report.refused))
    return report.result()


class _Report:
    """known: what was found, by failure, in the file that is written, too. refused: names of what was not tried."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        found = [] if options.output is None else read(options.output)
        self.known = {finding.failure: finding for finding in found}
        self.refused: list[str] = []

    def ended(self, failure: Failure, watch: Watch, healthy_at: float) -> None:
        finding = find(failure, watch, healthy_at)
        say(f"  {finding.text()}")
        self.known[finding.failure] = finding
        if self._options.output is not None:
            self.result().write(self._options.output)

    def afterwards(self, failure: Failure, watch: Watch, healthy_at: float) -> None:
        if self._options.plots is not None:
            draw_boards(watch, healthy_at, self._options.plots, failure.name)

    def untried(self, failure: Failure, error: Exception) -> None:
        say(f"  {failure.name} was not tried: {error}")
        self.refused.append(failure.name)

    def result(self) -> Result:
        return _result(self._options, [self.known[f.name] for f in FAILURES if f.name in self.known])


def _result(options: argparse.Namespace, findings: Sequence[Finding]) -> Result:
    hidden = ("run", "output", "plot", "plots", "command", "only")
    return Result(
        "drill",
        {name: value for name, value in vars(options).items() if name not in hidden},
        {"failures": len(findings), "as_expected": sum(finding.as_expected for finding in findings)},
        tables=tables(findings),
        details=to_json(findings),
        shows_metrics=False,
    )


def say(text: str) -> None:
    """Minutes pass: whoever waits sees how far it is."""
    print(text, file=sys.stderr, flush=True)
