"""A drill from its servers' start to their end, whatever comes between."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from benchmarks.drill.drilling import Times, drill
from benchmarks.drill.failure import Expected, Failure, Stand
from benchmarks.drill.watching import Watch
from tests.support.drilled import FakePrometheus, FakeStand, FakeTime, firing_from

TIMES = Times(healthy_s=60.0, least_s=0.0)
HEALTHY_AT = 1000.0


@dataclass
class Scene:
    """Failures `a` and `b`, of which `a` brings its alert, and what happened, in order.

    refuses: the name of a failure whose server does not start; fails: of one that cannot be done.
    """

    time: FakeTime = field(default_factory=lambda: FakeTime(HEALTHY_AT))
    happened: list[str] = field(default_factory=list)
    watches: dict[str, Watch] = field(default_factory=dict)
    refuses: str = ""
    fails: str = ""

    def failure(self, name: str, expected: Expected) -> Failure:
        @contextlib.contextmanager
        def harm(stand: Stand) -> Iterator[None]:
            if name == self.fails:
                raise OSError("no luck")
            self.happened.append(f"{name} begins")
            try:
                yield
            finally:
                self.happened.append(f"{name} is undone")

        return Failure(name, name, name, harm, (), expected)

    @contextlib.contextmanager
    def place(self, failure: Failure) -> Iterator[FakeStand]:
        if failure.name == self.refuses:
            raise RuntimeError("no room")
        self.happened.append(f"{failure.name} starts")
        try:
            yield FakeStand(FakePrometheus(self.time, {"A": firing_from(HEALTHY_AT + 80)}))
        finally:
            self.happened.append(f"{failure.name} ends")

    def ended(self, failure: Failure, watch: Watch, healthy_at: float) -> None:
        self.happened.append(f"{failure.name} is over")
        self.watches[failure.name] = watch
        assert healthy_at == HEALTHY_AT

    def afterwards(self, failure: Failure, watch: Watch, healthy_at: float) -> None:
        assert healthy_at == HEALTHY_AT
        assert watch is self.watches[failure.name]
        self.happened.append(f"{failure.name} is drawn")

    def untried(self, failure: Failure, error: Exception) -> None:
        self.happened.append(f"{failure.name} is not tried: {error}")

    def run(self) -> None:
        failures = [self.failure("a", Expected(("A",), 90.0)), self.failure("b", Expected((), 120.0, may=("A",)))]
        drill(failures, self.place, TIMES, self.time.clock, self)

    @property
    def left(self) -> set[str]:
        """What began and did not end."""
        return {
            what for what in ("a", "b") if f"{what} starts" in self.happened and f"{what} ends" not in self.happened
        }


WHOLE = ["a starts", "b starts", "a begins", "b begins", "a is over", "b is over"]
UNDONE = ["b is undone", "a is undone"]
GONE = ["b ends", "a ends"]


def test_from_start_to_end() -> None:
    scene = Scene()
    scene.run()
    assert scene.happened == [*WHOLE, *UNDONE, "a is drawn", "b is drawn", *GONE]
    assert scene.watches["a"].began_at == HEALTHY_AT + 60
    assert scene.watches["a"].fired == {"A": 20.0}
    assert scene.watches["b"].ended_at == HEALTHY_AT + 60 + 120


@pytest.mark.parametrize("after_s", [10, 70, 100])
def test_an_interrupt_ends_everything(after_s: float) -> None:
    """While all is well, while both are watched, and when one is over."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    scene = Scene(FakeTime(HEALTHY_AT, {HEALTHY_AT + after_s: interrupt}))
    with pytest.raises(KeyboardInterrupt):
        scene.run()
    undone = [*UNDONE, *GONE] if after_s > 60 else GONE
    assert scene.happened[-len(undone) :] == undone
    assert not scene.left


def test_a_server_that_does_not_start() -> None:
    scene = Scene(refuses="b")
    scene.run()
    assert scene.happened == [
        *("a starts", "b is not tried: no room", "a begins", "a is over", "a is undone", "a is drawn", "a ends")
    ]


def test_harm_that_cannot_be_done() -> None:
    scene = Scene(fails="b")
    scene.run()
    assert scene.happened == [
        *("a starts", "b starts", "a begins", "b is not tried: no luck", "a is over", "a is undone", "a is drawn"),
        *GONE,
    ]


def test_nothing_that_can_be_tried_takes_no_time() -> None:
    scene = Scene(refuses="a")
    drill([scene.failure("a", Expected((), 90.0))], scene.place, TIMES, scene.time.clock, scene)
    assert scene.happened == ["a is not tried: no room"]
    assert scene.time.now == HEALTHY_AT
