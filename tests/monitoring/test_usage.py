"""What teams use, as metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deployments.teams.records import UsageKind
from monitoring.labels import USAGE_KINDS
from monitoring.metrics import BUDGET_USED
from monitoring.process import init, render
from monitoring.usage import UsageMetrics


@pytest.fixture(autouse=True)
def _in_memory() -> Iterator[None]:
    init(None)
    yield
    init(None)


def values() -> dict[tuple[str, ...], float]:
    """By name and labels without `model`, those that are not 0."""
    return {
        (sample.name, *(value for label, value in sorted(sample.labels.items()) if label != "model")): sample.value
        for family in text_string_to_metric_families(render().decode())
        for sample in family.samples
        if "usage" in sample.name and not sample.name.endswith("_created") and sample.value
    }


def test_kinds_are_those_of_the_ledger() -> None:
    assert get_args(UsageKind) == USAGE_KINDS


def budgets() -> dict[str, float]:
    """By team, those that are not 0."""
    return {
        sample.labels["team"]: sample.value
        for family in text_string_to_metric_families(render().decode())
        for sample in family.samples
        if sample.name == BUDGET_USED.full_name and sample.value
    }


def test_a_budgets_share_is_the_worst_of_those_that_share_a_name_and_goes_with_the_budget() -> None:
    usage = UsageMetrics("m")
    crowd = {f"team {number}": 0.01 for number in range(200)}  # more than are told apart
    usage.budgets_used({"red": 0.5, "blue": 0.25, **crowd})
    first = budgets()
    assert (first["red"], first["blue"], first["other"]) == (0.5, 0.25, 0.01)
    assert len(first) < 200
    for shares in ({"late": 0.75, "later": 0.125}, {"later": 0.125, "late": 0.75}):
        usage.budgets_used({"blue": 0.375, **shares})
        assert budgets() == {"blue": 0.375, "other": 0.75}
    usage.budgets_used({})
    assert budgets() == {}


def test_use_counts_by_team() -> None:
    usage = UsageMetrics("m")
    usage.used("red", "completed", 30, 0.25)
    usage.used("red", "cancelled", 5, 0.5)
    usage.booked(2)
    usage.refused(1)
    usage.waiting(3, 7.5)
    assert values() == {
        ("starcoder_usage_tokens_total", "completed", "red"): 30,
        ("starcoder_usage_tokens_total", "cancelled", "red"): 5,
        ("starcoder_usage_cost_usd_total", "red"): 0.75,
        ("starcoder_usage_entries_booked_total",): 2,
        ("starcoder_usage_entries_refused_total",): 1,
        ("starcoder_usage_entries_waiting",): 3,
        ("starcoder_usage_oldest_waiting_seconds",): 7.5,
    }
