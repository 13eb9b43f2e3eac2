"""A request that is ended from outside: by whom, how it counts, and who is told."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from deployments.replica.admission import Admission, Lease
from deployments.replica.run import Run
from deployments.replica.sessions import Turn
from deployments.stop_rules import max_time, superseded
from deployments.stop_rules.rule import StopRule


def run_of(displaced: bool = False) -> Run:
    return Run(Turn(), Mock(), Lease(Admission(1, 0), "", 1, displaced))


@pytest.mark.parametrize(
    ("rule", "displaced", "cut_short", "outcome"),
    [
        (None, False, None, "abort"),
        (None, True, "displaced", "abort"),
        (superseded.RULE, False, "superseded", "abort"),
        (max_time.RULE, False, "max_time", "length"),
        (max_time.RULE, True, "max_time", "length"),
    ],
)
def test_what_ended_it_and_how_it_counts(
    rule: StopRule | None, displaced: bool, cut_short: str | None, outcome: str
) -> None:
    run = run_of(displaced)
    if rule is not None:
        run.end(rule)
    assert (run.cut_short, run.outcome) == (cut_short, outcome)


def test_everybody_is_told_once_of_its_end_whenever_they_asked() -> None:
    run, told = run_of(), list[str]()
    run.on_end(lambda: told.append("a"), lambda: told.append("b"))
    run.on_end(lambda: told.append("c"))
    assert told == []
    run.end(max_time.RULE)
    assert told == ["a", "b", "c"]
    run.on_end(lambda: told.append("late"))
    assert told == ["a", "b", "c", "late"]
    run.end(superseded.RULE)
    assert (told, run.ended_by) == (["a", "b", "c", "late"], max_time.RULE), "only the first end counts"
