"""Which alerts are noted after how long, with a clock and a Prometheus that are made up."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.drill.failure import Expected
from benchmarks.drill.watching import POLL_S, Watch, begin, watch
from tests.support.drilled import ACTIVE, FakePrometheus, FakeTime, firing_from

NAMES = st.sampled_from(("A", "B", "C", "D"))


@dataclass
class Watched:
    """One failure that begins at 100 s."""

    expected: Expected
    active: ACTIVE
    least_s: float = 0.0
    away: tuple[float, float] = (0.0, 0.0)
    time: FakeTime = field(default_factory=lambda: FakeTime(100.0))

    def run(self) -> Watch:
        observed = FakePrometheus(self.time, self.active, away=self.away)
        one = begin(observed, self.expected, self.time.clock, self.least_s)
        ended: list[int] = []
        watch([one], self.time.clock, ended.append)
        assert ended == [0]
        return one


def test_an_alert_that_comes_in_time() -> None:
    found = Watched(Expected(("A",), 300.0), {"A": firing_from(pending=110.0, firing=230.0)}).run()
    assert found.fired == {"A": pytest.approx(130.0, abs=POLL_S)}
    assert found.seen["A"].pending_s == 10.0
    assert found.ended_at == pytest.approx(230.0, abs=POLL_S)
    assert (found.missing, found.unexpected) == ((), ())


def test_an_alert_that_comes_too_late() -> None:
    found = Watched(Expected(("A",), 60.0), {"A": firing_from(pending=110.0, firing=230.0)}).run()
    assert (found.missing, found.fired) == (("A",), {})
    assert found.seen["A"].firing_s is None
    assert found.ended_at == pytest.approx(160.0, abs=POLL_S)


def test_it_is_watched_long_enough_for_alerts_that_should_not_come() -> None:
    active = {"A": firing_from(firing=101.0), "B": firing_from(firing=190.0), "C": firing_from(firing=150.0)}
    found = Watched(Expected(("A",), 300.0, may=("C",)), active, least_s=100.0).run()
    assert list(found.fired) == ["A", "C", "B"]
    assert found.unexpected == ("B",)
    assert found.ended_at == pytest.approx(200.0, abs=POLL_S)


def test_what_brings_no_alert_is_watched_to_the_end() -> None:
    found = Watched(Expected((), 200.0), {}).run()
    assert found.ended_at == pytest.approx(300.0, abs=POLL_S)
    assert (found.missing, found.unexpected) == ((), ())


def test_an_alert_that_was_there_before_says_nothing() -> None:
    found = Watched(Expected(("A",), 50.0), {"A": firing_from(firing=90.0), "B": firing_from(firing=90.0)}).run()
    assert found.missing == ("A",)
    assert found.unexpected == ("B",)
    assert not found.seen


def test_a_prometheus_that_does_not_answer_is_asked_again() -> None:
    active = {"A": firing_from(firing=120.0)}
    found = Watched(Expected(("A",), 300.0), active, away=(110.0, 140.0)).run()
    assert found.fired == {"A": pytest.approx(40.0, abs=POLL_S)}


def test_each_of_several_ends_on_its_own() -> None:
    time = FakeTime(100.0)
    active = {"A": firing_from(firing=120.0)}
    watches = [
        begin(FakePrometheus(time, active), Expected((), 90.0), time.clock),
        begin(FakePrometheus(time, active), Expected(("A",), 90.0), time.clock, least_s=0.0),
    ]
    ended: list[tuple[int, float]] = []
    watch(watches, time.clock, lambda number: ended.append((number, time.now)))
    assert ended == [(1, pytest.approx(120.0, abs=POLL_S)), (0, pytest.approx(190.0, abs=POLL_S))]


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(NAMES, st.integers(101, 180)),
    st.frozensets(NAMES),
    st.frozensets(NAMES),
    st.integers(10, 60),
    st.integers(0, 60),
)
def test_whatever_comes(
    firing: dict[str, int], fires: frozenset[str], may: frozenset[str], within_s: int, least_s: int
) -> None:
    active = {name: firing_from(firing=float(at)) for name, at in firing.items()}
    found = Watched(Expected(tuple(fires), within_s, tuple(may)), active, least_s).run()
    watched = found.ended_at - 100.0
    assert watched <= within_s + POLL_S
    come = {name for name, at in firing.items() if at <= found.ended_at}
    assert set(found.fired) == come
    assert set(found.missing) == fires - come
    assert set(found.unexpected) == come - fires - may
    assert watched >= min(within_s, least_s)
    assert all(firing[name] - 100 <= after <= firing[name] - 100 + POLL_S for name, after in found.fired.items())
