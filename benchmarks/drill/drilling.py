"""Failures side by side, each on a server of its own: all is well, then it happens, then it is watched."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmarks.drill.failure import Failure, Stand
from benchmarks.drill.watching import LEAST_S, Clock, Watch, begin, watch


@dataclass(frozen=True)
class Times:
    """Seconds: healthy_s, before a failure; least_s, that it is watched in any case."""

    healthy_s: float = 60.0
    least_s: float = LEAST_S


Place = Callable[[Failure], AbstractContextManager[Stand]]
"""Where a failure is tried, ready, and gone when it is left."""

Ended = Callable[[Failure, Watch, float], None]
"""Told of each that is over, at once, while its server is still there; and since when (Unix seconds) all was well."""


def drill(failures: Sequence[Failure], place: Place, times: Times, clock: Clock, ended: Ended) -> None:
    """On every path all harm is undone, and then all servers end. Raises whatever the place and the harm raise."""
    with contextlib.ExitStack() as places:
        stands = [places.enter_context(place(failure)) for failure in failures]
        healthy_at = clock.now()
        clock.sleep(times.healthy_s)
        with contextlib.ExitStack() as harms:
            watches = []
            for failure, stand in zip(failures, stands, strict=True):
                watches.append(begin(stand.observed, failure.expected, clock, times.least_s))
                harms.enter_context(failure.harm(stand))
            watch(watches, clock, lambda n: ended(failures[n], watches[n], healthy_at))
