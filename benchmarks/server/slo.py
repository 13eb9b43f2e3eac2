"""Goodput: how many requests a second were answered as fast as was promised.

Definition and keys are those of `vllm bench serve --goodput`, after DistServe (arXiv:2401.09670); ours are in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.metrics import Timeline

_ALIASES = {"ttft": "ttft", "tpot": "tpot", "e2e": "e2el", "e2el": "e2el"}


@dataclass(frozen=True)
class Slo:
    """Upper bounds in seconds; None: no promise. A request of one token keeps any promise about TPOT."""

    ttft: float | None = None
    tpot: float | None = None
    e2el: float | None = None

    @classmethod
    def parse(cls, text: str) -> Slo:
        """Read `ttft:0.2,e2e:1`. Raises ValueError for what is no such list."""
        bounds: dict[str, float] = {}
        for part in text.split(","):
            name, colon, value = part.strip().partition(":")
            if not colon or name not in _ALIASES:
                raise ValueError(f"{part!r} is not one of ttft:SECONDS, tpot:SECONDS, e2e:SECONDS")
            bound = float(value)
            if not bound > 0:
                raise ValueError(f"{part!r}: the bound must be above 0")
            bounds[_ALIASES[name]] = bound
        return cls(**bounds)

    def met_by(self, timeline: Timeline) -> bool:
        if not timeline.completed:
            return False
        pairs = ((self.ttft, timeline.ttft), (self.tpot, timeline.tpot), (self.e2el, timeline.e2el))
        return all(bound is None or value is None or value <= bound for bound, value in pairs)


def goodput(timelines: Sequence[Timeline], duration: float, slo: Slo) -> float:
    """Requests a second that met every bound."""
    return sum(slo.met_by(t) for t in timelines) / duration
