"""Failures side by side, each on a server of its own: all is well, then it happens, then it is watched."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from benchmarks.drill.failure import Failure, Stand
from benchmarks.drill.watching import LEAST_S, Clock, Watch, begin, watch


@dataclass(frozen=True)
class Times:
    """Seconds: healthy_s, before a failure; least_s, that it is watched in any case."""

    healthy_s: float = 60.0
    least_s: float = LEAST_S


COMES_UP = (RuntimeError, OSError)
"""What comes up where machines fail; everything else is a fault of the drill's."""

Place = Callable[[Failure], AbstractContextManager[Stand]]
"""Where a failure is tried, ready, and gone when it is left."""


class Report(Protocol):
    """Is told how it goes."""

    def ended(self, failure: Failure, watch: Watch, healthy_at: float) -> None:
        """It is over, and its server still there; others are still watched. healthy_at: Unix seconds since when all
        was well."""

    def afterwards(self, failure: Failure, watch: Watch, healthy_at: float) -> None:
        """None is watched any more, and what Prometheus knows is still there."""

    def untried(self, failure: Failure, error: Exception) -> None:
        """Its server, or who goes with it, does not start, or it cannot be done."""


def drill(failures: Sequence[Failure], place: Place, times: Times, clock: Clock, report: Report) -> None:
    """What cannot be tried does not keep the others from it. On every path all harm is undone, then all servers end."""
    with contextlib.ExitStack() as places:
        placed = []
        for failure in failures:
            try:
                placed.append((failure, places.enter_context(place(failure))))
            except COMES_UP as error:
                report.untried(failure, error)
        healthy_at = clock.now()
        if placed:
            clock.sleep(times.healthy_s)
        with contextlib.ExitStack() as harms:
            tried = []
            for failure, stand in placed:
                try:
                    watching = begin(stand.observed, failure.expected, clock, times.least_s)
                    harms.enter_context(failure.harm(stand))
                    tried.append((failure, watching))
                except COMES_UP as error:
                    report.untried(failure, error)
            watch([one for _, one in tried], clock, lambda number: report.ended(*tried[number], healthy_at))
        for failure, watched in tried:
            report.afterwards(failure, watched, healthy_at)
