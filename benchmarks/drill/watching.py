"""Which alerts a failure brings, how soon, and whether these are the ones that it should."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.drill.failure import Expected
from benchmarks.drill.observed import Alert, Observed

POLL_S = 1.0
LEAST_S = 150.0
"""Watched in any case: the pages come two minutes after what they tell of, the wrong ones too."""


@dataclass(frozen=True)
class Clock:
    """now: Unix seconds."""

    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


@dataclass
class Sighting:
    """Of one alert. Seconds since the failure: pending_s, since its expression holds; firing_s, since it fires."""

    name: str
    severity: str
    pending_s: float
    firing_s: float | None = None


@dataclass
class Watch:
    """Over one failure. before: alerts that fired when it began, which so say nothing of it.

    began_at, ended_at: Unix seconds; the latter is that of the last look.
    """

    observed: Observed
    expected: Expected
    began_at: float
    least_s: float = LEAST_S
    before: tuple[str, ...] = ()
    seen: dict[str, Sighting] = field(default_factory=dict)
    ended_at: float = 0.0

    def look(self, now: float) -> None:
        """Take down what is active. A Prometheus that does not answer is asked again."""
        self.ended_at = now
        with contextlib.suppress(OSError):
            for alert in self.observed.alerts():
                if alert.name not in self.before:
                    self._take_down(alert, now)

    def _take_down(self, alert: Alert, now: float) -> None:
        since = round(alert.active_at - self.began_at, 1)
        sighting = self.seen.setdefault(alert.name, Sighting(alert.name, alert.severity, since))
        if alert.state == "firing" and sighting.firing_s is None:
            sighting.firing_s = round(now - self.began_at, 1)

    @property
    def over(self) -> bool:
        """All that it should bring is there and it was watched long enough, or does not come any more."""
        passed = self.ended_at - self.began_at
        come = bool(self.expected.fires) and not self.missing
        return passed >= self.expected.within_s or (come and passed >= self.least_s)

    @property
    def fired(self) -> dict[str, float]:
        """Seconds since the failure by alert, in order."""
        found = {s.name: s.firing_s for s in self.seen.values() if s.firing_s is not None}
        return dict(sorted(found.items(), key=lambda pair: pair[1]))

    @property
    def missing(self) -> tuple[str, ...]:
        """What should fire and does not."""
        return tuple(name for name in self.expected.fires if name not in self.fired)

    @property
    def unexpected(self) -> tuple[str, ...]:
        """What fires and should not."""
        known = {*self.expected.fires, *self.expected.may}
        return tuple(name for name in (*self.before, *self.fired) if name not in known)


def begin(observed: Observed, expected: Expected, clock: Clock, least_s: float = LEAST_S) -> Watch:
    """As the failure is about to begin. Raises OSError where Prometheus does not answer."""
    before = tuple(dict.fromkeys(alert.name for alert in observed.alerts() if alert.state == "firing"))
    return Watch(observed, expected, clock.now(), least_s, before)


def watch(watches: Sequence[Watch], clock: Clock, ended: Callable[[int], None]) -> None:
    """Until all of them are over. ended: is told of each by its number, at once, while its server is still there."""
    left = dict(enumerate(watches))
    while left:
        for number, one in list(left.items()):
            one.look(clock.now())
            if one.over:
                del left[number]
                ended(number)
        if left:
            clock.sleep(POLL_S)
