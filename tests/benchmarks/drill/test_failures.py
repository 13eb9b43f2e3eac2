"""The table of failures: twelve, about panels and alerts that exist, and how they are chosen."""

from __future__ import annotations

import pytest
import yaml

from benchmarks.drill.failure import Expected, Failure, rounds
from benchmarks.drill.failures import FAILURES, QUICK, chosen
from benchmarks.drill.harm import clients
from benchmarks.drill.panels import panel
from monitoring.prometheus import RULES

ALERTS = {
    rule["alert"]: rule["labels"]["severity"]
    for group in yaml.safe_load((RULES / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
}
EACH = pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)


def test_there_are_twelve() -> None:
    assert len({failure.name for failure in FAILURES}) == len(FAILURES) == 12
    assert len({failure.title for failure in FAILURES}) == 12


@EACH
def test_panels_and_alerts_exist(failure: Failure) -> None:
    assert [panel(title)[1].title for title in failure.panels] == list(failure.panels) != []
    assert {*failure.expected.fires, *failure.expected.may} <= ALERTS.keys()


def test_the_drill_takes_less_than_an_hour_and_a_half() -> None:
    """Each round a start and an end, a minute in which all is well, and the longest that is watched in it."""
    assert sum(150 + max(f.expected.within_s for f in together) for together in rounds(FAILURES, 4)) < 5400


def test_a_rollout_and_a_killed_ingress_bring_no_page() -> None:
    for failure in chosen(["rollout", "ingress-killed"]):
        assert not [name for name in (*failure.expected.fires, *failure.expected.may) if ALERTS[name] == "page"]


def test_choosing() -> None:
    assert chosen([]) == list(FAILURES)
    assert [failure.name for failure in chosen(["rollout", QUICK])] == [QUICK, "rollout"]
    with pytest.raises(ValueError, match=r"there is no failure 'roll-out'.*rollout"):
        chosen(["roll-out"])


def made(name: str, within_s: float, *, alone: bool = False) -> Failure:
    return Failure(name, name, name, clients, (), Expected((), within_s), alone=alone)  # type: ignore[arg-type]


def test_those_that_take_as_long_are_tried_together_and_loads_alone() -> None:
    failures = [made("a", 10), made("b", 900), made("load", 50, alone=True), made("c", 20), made("d", 800)]
    found = [[failure.name for failure in together] for together in rounds(failures, 2)]
    assert found == [["load"], ["b", "d"], ["c", "a"]]
    with pytest.raises(ValueError, match="at least one"):
        rounds(failures, 0)
