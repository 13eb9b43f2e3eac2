"""What a panel showed before a failure and during it."""

from __future__ import annotations

import pytest

from benchmarks.drill.observed import Series
from benchmarks.drill.panels import STEP_S, Shown, legend_of, line, panel, shown
from monitoring.boards.panel import Panel
from tests.support.drilled import FakePrometheus, FakeTime

BEGAN, ENDED = 100.0, 200.0


def points(before: float, after: float, end: float = ENDED) -> list[tuple[float, float]]:
    return [(at, before if at < BEGAN else after) for at in range(50, int(end) + 1, 5)]


def test_before_is_the_median_and_during_what_was_furthest_from_it() -> None:
    found = [*points(2.0, 2.0), (60.0, 90.0), (150.0, 1.0), (155.0, 2.5)]
    assert line("up", sorted(found), BEGAN, ENDED) == Shown("up", 2.0, 1.0)


def test_a_line_that_comes_with_the_failure() -> None:
    found = line("shed", [(at, value) for at, value in points(0.0, 3.0) if at >= BEGAN], BEGAN, ENDED)
    assert found == Shown("shed", None, 3.0)
    assert found.change == 1.0


@pytest.mark.parametrize(("end", "gone"), [(ENDED, False), (ENDED - 2 * STEP_S, False), (ENDED - 4 * STEP_S, True)])
def test_a_line_that_ends(end: float, gone: bool) -> None:
    assert line("up", points(2.0, 2.0, end), BEGAN, ENDED).gone is gone


def test_nothing_at_all() -> None:
    assert line("", [], BEGAN, ENDED) == Shown("", None, None)
    assert line("", [], BEGAN, ENDED).change == 0.0
    assert Shown("", 0.0, 0.0).change == 0.0


def test_the_line_that_shows_most_comes_first() -> None:
    """Each with its legend, by the panel's own expressions, Grafana's variables replaced."""
    observed = FakePrometheus(
        FakeTime(), shows=[Series({"outcome": "ok"}, points(2.0, 1.9)), Series({"outcome": "shed"}, points(0.0, 8.0))]
    )
    query = 'sum by (outcome) (rate(starcoder_requests_total{model=~"$model"}[$__rate_interval]))'
    found = shown(observed, Panel("Requests", "", ((query, "{{outcome}}"),)), 50.0, BEGAN, ENDED)
    assert found == [Shown("shed", 0.0, 8.0), Shown("ok", 2.0, 1.9)]
    ((expression, *span),) = observed.asked
    assert expression == 'sum by (outcome) (rate(starcoder_requests_total{model=~".*"}[20s]))'
    assert span == [50.0, ENDED, STEP_S]


def test_legends() -> None:
    assert legend_of("{{instance}} ready", {"instance": "a:1"}) == "a:1 ready"
    assert legend_of("failed: {{cause}}", {}) == "failed:"


def test_a_panel_that_no_board_has() -> None:
    with pytest.raises(ValueError, match="no board has a panel 'Rquests'"):
        panel("Rquests")
