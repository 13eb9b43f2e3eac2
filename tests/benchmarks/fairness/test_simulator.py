"""What the simulator counts, and that the figures of its scenarios are of the kind that the scheduler promises."""

from __future__ import annotations

import argparse

import pytest

from benchmarks.fairness import command
from benchmarks.fairness.command import SCENARIOS, figures, simulate
from benchmarks.fairness.simulator import Ask, Simulation
from benchmarks.scaling.engines import EngineModel

MODEL = EngineModel("small", floor_s=0.01, per_token_s=1e-3, per_sequence_s=1e-3, batched_tokens=100, kv_tokens=4000)
OPTIONS = argparse.Namespace(seconds=20.0, seed=0)


def test_waits_and_service_are_counted() -> None:
    outcome = Simulation(MODEL, [Ask(1.0, "one", 150, 3), Ask(5.0, "two", 50, 1)]).run()
    assert outcome.waits == {"one": [pytest.approx(0.15)], "two": [pytest.approx(0.05)]}
    assert outcome.served("one", 0.0, 1.12) == 100
    assert outcome.served("one", 0.0, 9.0) == 150 + 2 * 3
    assert outcome.served("one", 1.12, 9.0) == 56
    assert outcome.total() == 156 + 52


def test_first_come_knows_no_tenants() -> None:
    asks = [Ask(0.0, "flood", 100, 1) for _ in range(50)] + [Ask(0.001, "team", 100, 1, weight=9, service_class=0)]
    first, ours = (Simulation(MODEL, asks, told_apart).run().waits["team"][0] for told_apart in (False, True))
    assert first > 5.0
    assert ours < 0.3


@pytest.mark.parametrize("told_apart", [False, True])
def test_a_flood_drowns_a_team_only_where_it_is_not_told_apart(told_apart: bool) -> None:
    found = figures(simulate(SCENARIOS["a flood"], told_apart, OPTIONS), "team", 20.0)
    assert (found["p95_ttft_s"] < 0.5) == told_apart


def test_weights_are_kept_and_the_same_is_served_in_all() -> None:
    first, ours = (simulate(SCENARIOS["weights 3:1"], told_apart, OPTIONS) for told_apart in (False, True))
    assert ours.served("three", 2.0, 15.0) / ours.served("one", 2.0, 15.0) == pytest.approx(3, rel=0.05)
    assert ours.total() == first.total()
    served = [sum(outcome.served(name, 0.0, 20.0) for name in ("three", "one")) for outcome in (first, ours)]
    assert served[1] == pytest.approx(served[0], rel=0.03)


def test_the_result_names_every_tenant_of_every_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SCENARIOS", {"weights 3:1": SCENARIOS["weights 3:1"]})
    result = command.run(argparse.Namespace(seconds=2.0, seed=0))
    named = [(row["scenario"], row["tenant"]) for row in result.details]
    assert named == [("weights 3:1", "three"), ("weights 3:1", "one")]
    assert set(result.curves["weights 3:1"]) == {f"{name}, {way}" for name in ("three", "one") for way in command.WAYS}
