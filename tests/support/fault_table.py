"""The table of faults in docs/reliability.md, made by the run that injected them.

A test in tests/faults/ says what it does to the server, and what clients see of it, with `@pytest.mark.fault`; the
fixture `recovered` takes how long that lasted. `pytest tests/faults --record-faults` keeps what a run measured in
tests/faults/recoveries.json and writes the table. After a change of words alone: `python -m tests.support.fault_table`.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from monitoring.version import package_version

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/reliability.md"
RECOVERIES = ROOT / "tests/faults/recoveries.json"
BEGIN = "<!-- made by `pytest tests/faults --record-faults`: tests/support/fault_table.py -->"
END = "<!-- end of the table -->"

Recoveries = dict[str, dict[str, Any]]
"""By fault: `seconds`, and `date`, `machine` and `versions` of the run that measured them."""


@dataclass(frozen=True)
class Fault:
    """name: what is done. seen: by clients. until: what ended the time that is measured; None: none is."""

    name: str
    seen: str
    until: str | None = None

    @classmethod
    def of(cls, mark: pytest.Mark) -> Fault:
        return cls(*mark.args, **mark.kwargs)


def declarations() -> Iterator[tuple[str, Fault | None]]:
    """Each test function in tests/faults/ with the fault that it declares; whatever part of the tests runs."""
    for file in sorted((ROOT / "tests/faults").glob("test_*.py")):
        module = import_module(f"tests.faults.{file.stem}")
        for name, function in vars(module).items():
            if name.startswith("test_") and function.__module__ == module.__name__ and file.stem != "test_table":
                marks = [mark for mark in getattr(function, "pytestmark", ()) if mark.name == "fault"]
                yield f"{file.name}::{name}", Fault.of(marks[0]) if marks else None


def faults() -> list[Fault]:
    """The rows, in order."""
    return [fault for _, fault in declarations() if fault is not None]


def read() -> Recoveries:
    found: Recoveries = json.loads(RECOVERIES.read_text())
    return found


def render(rows: list[Fault], measured: Recoveries) -> str:
    """A Markdown table, and a line for each run that figures come from. Raises KeyError for what was never run."""
    lines = [["what happens", "what clients see", "how long"], ["---"] * 3]
    lines += [[fault.name, fault.seen, _how_long(fault, measured[fault.name]["seconds"])] for fault in rows]
    runs: dict[str, list[str]] = defaultdict(list)
    for fault in rows:
        run = measured[fault.name]
        runs[f"Measured on {run['date']} with {run['versions']}, on {run['machine']}"].append(fault.name)
    said = [f"{run}." if len(runs) == 1 else f"{run}: {'; '.join(names)}." for run, names in runs.items()]
    return "\n\n".join(["\n".join(f"| {' | '.join(line)} |" for line in lines), *said])


def _how_long(fault: Fault, seconds: list[float]) -> str:
    if fault.until is None:
        return ""
    ends = dict.fromkeys(map(_number, (min(seconds), max(seconds))))
    return f"{fault.until} after {' to '.join(ends)} s"


def _number(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.2f}"


def written(document: str, table: str) -> str:
    """The document with this table in the place of the one before."""
    before, _, rest = document.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


def machine() -> dict[str, str]:
    """What a run's figures depend on."""
    from benchmarks.machine import describe_machine, versions

    found, of = describe_machine(), versions()
    parts = [f"StarCoder Serve {package_version()}", f"Ray {of['ray']}", f"PyTorch {of['torch']}"]
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{found['cores']} cores of {found['cpu']} with {found['memory_gib']:.0f} GiB",
        "versions": f"{', '.join(parts)} and Python {of['python']}",
    }


class FaultRun:
    """What the tests of a run have found, read from their reports, which come from other processes under xdist."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = [tuple(one) for one in report.user_properties]
        for fault in (value for name, value in properties if name == _FAULT):
            if report.outcome != "passed":
                self.failed.add(str(fault))
            elif report.when == "teardown":
                self.seconds[str(fault)] += [float(value) for name, value in properties if name == _SECONDS]  # type: ignore[arg-type]

    def recoveries(self, run: Mapping[str, str]) -> Recoveries:
        """Of faults whose tests have all passed."""
        return {
            fault: {"seconds": sorted(seconds), **run}
            for fault, seconds in self.seconds.items()
            if fault not in self.failed
        }


_FAULT, _SECONDS = "fault", "recovery_seconds"
_RUN = "a run of the tests of faults"


@pytest.fixture
def recovered(request: pytest.FixtureRequest) -> Callable[[float], None]:
    """Takes how many seconds clients, or whoever waits, felt the test's fault."""
    return lambda seconds: request.node.user_properties.append((_SECONDS, round(seconds, 3)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-faults", action="store_true", help=f"write {RECOVERIES.name} and the table made of it")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(FaultRun(), _RUN)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if mark := item.get_closest_marker("fault"):
            item.user_properties.append((_FAULT, Fault.of(mark).name))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    run: FaultRun = config.pluginmanager.get_plugin(_RUN)
    if not run.seconds:
        return
    terminalreporter.section("faults survived")
    found = run.recoveries({})
    for fault in faults():
        if fault.name in found:
            terminalreporter.write_line(f"{fault.name}: {_how_long(fault, found[fault.name]['seconds']) or 'survived'}")
    if config.getoption("--record-faults"):
        record(run.recoveries(machine()))


def record(found: Recoveries) -> None:
    """Keep what a run has measured, and what earlier runs have of other faults; then write the table."""
    known = {**(read() if RECOVERIES.exists() else {}), **found}
    rows = [fault for fault in faults() if fault.name in known]
    kept = {fault.name: known[fault.name] for fault in rows}
    RECOVERIES.write_text(json.dumps(kept, indent=1) + "\n")
    DOCUMENT.write_text(written(DOCUMENT.read_text(), render(rows, kept)))


if __name__ == "__main__":
    record({})
