"""A clock, a Prometheus and a server for drills in which nothing happens but what the test says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.drill.clients import Load
from benchmarks.drill.observed import Alert, Series
from benchmarks.drill.watching import Clock

ACTIVE = dict[str, Callable[[str, float], Alert | None]]
"""By name: what the alert is at a time."""


@dataclass
class FakeTime:
    """Passes while somebody sleeps. at: what is done when it comes to a time, such as an interrupt."""

    now: float = 0.0
    at: dict[float, Callable[[], None]] = field(default_factory=dict)

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        for due in [due for due in self.at if due <= self.now]:
            self.at.pop(due)()


def firing_from(firing: float, pending: float | None = None) -> Callable[[str, float], Alert | None]:
    """An alert that is pending from a time on and fires from another one on."""
    since = firing if pending is None else pending

    def at(name: str, now: float) -> Alert | None:
        if now < since:
            return None
        return Alert(name, "page", "firing" if now >= firing else "pending", since)

    return at


@dataclass
class FakePrometheus:
    """active: its alerts. away: from when until when it does not answer. shows: what each expression has."""

    time: FakeTime
    active: ACTIVE = field(default_factory=dict)
    away: tuple[float, float] = (0.0, 0.0)
    shows: list[Series] = field(default_factory=list)
    asked: list[tuple[str, float, float, float]] = field(default_factory=list)

    def alerts(self) -> list[Alert]:
        if self.away[0] <= self.time.now < self.away[1]:
            raise TimeoutError("it is away")
        return [alert for name, at in self.active.items() if (alert := at(name, self.time.now)) is not None]

    def curves(self, expression: str, start: float, end: float, step_s: float) -> list[Series]:
        self.asked.append((expression, start, end, step_s))
        return self.shows


@dataclass
class FakeStand:
    """processes: its pids by what their command lines hold. loads: of the clients that are there now."""

    observed: FakePrometheus
    home: Path = Path()
    checkpoint: Path = Path()
    pid: int = 0
    metrics_port: int = 0
    processes: dict[str, list[int]] = field(default_factory=dict)
    loads: list[Load] = field(default_factory=list)

    def pids(self, kind: str) -> list[int]:
        return list(self.processes.get(kind, ()))

    @contextlib.contextmanager
    def clients(self, load: Load) -> Iterator[None]:
        self.loads.append(load)
        try:
            yield
        finally:
            self.loads.remove(load)
