"""The table in docs/reliability.md has every fault of these tests, with what a run of them has measured."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import fault_table
from tests.support.fault_table import DOCUMENT, Fault, FaultRun, declarations, read, render, written

DROP = Fault("it is dropped", "a dent", until="whole again")
KICK = Fault("it is kicked", "nothing")


def test_every_test_declares_a_fault_of_its_own() -> None:
    """With `@pytest.mark.fault(what happens, what clients see)`."""
    declared = dict(declarations())
    assert [test for test, fault in declared.items() if fault is None] == []
    assert len({fault.name for fault in fault_table.faults()}) == len(declared) > 10


def test_every_fault_was_recorded_and_nothing_else() -> None:
    """For a new one: `pytest tests/faults --record-faults -k NAME`."""
    measured = read()
    assert measured.keys() == {fault.name for fault in fault_table.faults()}
    timed = {name for name, run in measured.items() if run["seconds"]}
    assert timed == {fault.name for fault in fault_table.faults() if fault.until is not None}


def test_the_document_shows_what_was_recorded() -> None:
    """After a change of words: `python -m tests.support.fault_table`."""
    document = DOCUMENT.read_text()
    assert document == written(document, render(fault_table.faults(), read()))


def test_a_table() -> None:
    first, second = ({"date": date, "machine": "a ship", "versions": "1"} for date in ("May 1", "May 2"))
    measured: dict[str, Any] = {DROP.name: {"seconds": [0.2, 12.34], **first}, KICK.name: {"seconds": [], **first}}
    table = render([DROP, KICK], measured)
    assert "| it is dropped | a dent | whole again after 0.20 to 12 s |\n| it is kicked | nothing |  |" in table
    assert table.endswith("\n\nMeasured on May 1 with 1, on a ship.")
    measured[KICK.name] = {"seconds": [], **second}
    assert render([DROP, KICK], measured).endswith(
        "on a ship: it is dropped.\n\nMeasured on May 2 with 1, on a ship: it is kicked."
    )
    page = f"before {fault_table.BEGIN} old {fault_table.END} after"
    assert written(page, "new") == f"before {fault_table.BEGIN}\n\nnew\n\n{fault_table.END} after"


def test_only_faults_whose_tests_all_passed_are_recorded() -> None:
    run = FaultRun()
    for fault, when, outcome, seconds in (
        ("a", "call", "passed", [1.0]),
        ("a", "teardown", "passed", [1.0]),
        ("a", "teardown", "passed", [0.5]),
        ("b", "call", "passed", [2.0]),
        ("b", "teardown", "failed", [2.0]),
        ("c", "call", "failed", []),
        ("c", "teardown", "passed", [3.0]),
        ("d", "setup", "skipped", []),
        ("d", "teardown", "passed", []),
    ):
        properties: list[Any] = [["fault", fault], *(["recovery_seconds", value] for value in seconds)]
        run.pytest_runtest_logreport(
            pytest.TestReport("n", ("f", 1, "n"), {}, outcome, None, when, user_properties=properties)  # type: ignore[arg-type]
        )
    assert run.recoveries({"date": "today"}) == {"a": {"seconds": [0.5, 1.0], "date": "today"}}
