"""The table in docs/on-call.md is the one of the run that is committed."""

from __future__ import annotations

from benchmarks.drill.failures import FAILURES
from benchmarks.drill.finding import Finding, PanelSeen, read
from benchmarks.drill.panels import Shown
from benchmarks.drill.table import BEGIN, DOCUMENT, END, NOT_RUN, RESULTS, alerts, markdown, written
from benchmarks.drill.watching import Sighting

KILLED = Finding(
    failure="engine-killed",
    date="2026-11-27",
    machine="a ship",
    watched_s=200.0,
    alerts=(Sighting("Late", "page", 10.0), Sighting("Slow", "ticket", 5.0, 20.4), Sighting("Loud", "page", 1.0, 9.6)),
    missing=("Late",),
    unexpected=("Slow",),
    panels=(
        PanelSeen("Cluster", "Engines up", "short", (Shown("127.0.0.1:1", 2.0, 1.0),)),
        PanelSeen("Cluster", "Failures", "short", (Shown("failed: killed", 0.0, 1.02), Shown("started", 0.0, 0.0))),
        PanelSeen("Service", "Time to first token", "s", (Shown("p50", 0.042, 1.2, gone=True),)),
        PanelSeen("Service", "Requests", "reqps", ()),
    ),
)


def test_the_document_shows_the_run_that_is_committed() -> None:
    """After another run, or a change of words: `python -m benchmarks.drill.table`."""
    document = DOCUMENT.read_text()
    assert document == written(document, markdown(read(RESULTS)))


def test_the_run_that_is_committed_is_of_failures_that_there_are() -> None:
    assert {finding.failure for finding in read(RESULTS)} <= {failure.name for failure in FAILURES}


def test_a_table() -> None:
    head, rule, *lines, nothing, run = markdown([KILLED]).split("\n")
    assert rule == "| --- | --- | --- |"
    assert head.count("|") == 4
    assert len(lines) == len(FAILURES)
    (killed,) = (line for line in lines if NOT_RUN not in line)
    assert killed.startswith("| **an engine is killed as by the out-of-memory killer**: SIGKILL")
    assert (
        "| Engines up: 2 → 1<br>Failures (failed: killed): 0 → 1<br>Time to first token: 42 ms → gone<br>"
        "Requests: nothing |" in killed
    )
    assert (nothing, run) == ("", "Run on 2026-11-27, on a ship.")


def test_each_is_said_to_have_run_where_it_did() -> None:
    quiet = Finding("rollout", "2026-11-27", "a raft", 260.0, (), (), (), ())
    *_, nothing, first, second = markdown([quiet, KILLED]).split("\n")
    assert nothing == ""
    assert first == "- an engine is killed as by the out-of-memory killer: on 2026-11-27, on a ship."
    assert second == "- a rollout: on 2026-11-27, on a raft."
    assert markdown([]).endswith("\n\nNot run yet.")


def test_alerts_in_the_order_in_which_they_fire() -> None:
    assert alerts(KILLED) == (
        "Loud (page) 10 s; Slow 20 s; **Late did not fire within 200 s**; **Slow should not fire**"
    )
    assert KILLED.text() == "engine-killed: Slow after 20 s, Loud after 10 s (Late is missing; Slow should not)"
    assert not KILLED.as_expected


def test_rightly_none() -> None:
    quiet = Finding("rollout", "2026-11-27", "a raft", 260.0, (), (), (), ())
    assert alerts(quiet) == "rightly none within 260 s"
    assert quiet.text() == "rollout: no alert"
    assert quiet.as_expected


def test_only_the_table_is_replaced() -> None:
    assert written(f"before {BEGIN} old {END} after", "new") == f"before {BEGIN}\n\nnew\n\n{END} after"
