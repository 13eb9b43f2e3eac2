"""Asks the server what a client would ask it, every few seconds, from outside its processes.

The node's exporter does, where an ingress has told of the server (`front`). So the figures are there when all of the
server's processes are dead or hang.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from monitoring.front import TIMEOUT_S, Front, told
from monitoring.front_metrics import PROBE_SUCCESS, PROBE_TIME
from monitoring.specs import GaugeSpec

PATH = "/version"
"""Answered by an ingress alone: what engines do, their own series say."""

PERIOD_S = 5.0


@dataclass(frozen=True)
class _Probed:
    front: Front
    success: bool
    seconds: float


class Probe(Collector):
    """A `prometheus_client` collector of what the server answers, asked by a thread of its own until `close`.

    Says nothing of a server that has never answered: it may be starting, or be somewhere else.
    """

    def __init__(self, directory: Path, period_s: float = PERIOD_S, timeout_s: float = TIMEOUT_S) -> None:
        self._directory = directory
        self._period_s = period_s
        self._timeout_s = timeout_s
        self._last: _Probed | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Return at once; an answer that is awaited is not."""
        self._stop.set()

    def collect(self) -> Iterator[Metric]:
        if (last := self._last) is not None:
            yield _family(PROBE_SUCCESS, last.front, float(last.success))
            yield _family(PROBE_TIME, last.front, last.seconds)

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def _run(self) -> None:
        self._ask()
        while not self._stop.wait(self._period_s):
            self._ask()

    def _ask(self) -> None:
        front = told(self._directory)
        if front is None:
            self._last = None
            return
        began = time.monotonic()
        answer = front.get(PATH, self._timeout_s)
        success = answer is not None and answer[0] < 500  # who is refused is answered
        known = self._last is not None and self._last.front == front
        self._last = _Probed(front, success, time.monotonic() - began) if success or known else None


def _family(spec: GaugeSpec, front: Front, value: float) -> Metric:
    family = GaugeMetricFamily(spec.full_name, spec.documentation, labels=spec.labels)
    family.add_metric([front.model], value)
    return family
