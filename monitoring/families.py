"""The declared metrics as one process holds them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from monitoring.metrics import RECORDING_SINCE, declared
from monitoring.specs import CounterSpec, GaugeSpec, HistogramSpec, MetricSpec

Spec = TypeVar("Spec", bound=MetricSpec)


def _process_id() -> str:
    return str(os.getpid())


class Families:
    """Every declared metric, on a registry of its own. recorder: this process's name, which no other one has."""

    def __init__(self, recorder: Callable[[], str] = _process_id) -> None:
        self.registry = CollectorRegistry()
        self._recorder, self._since = recorder, time.time()
        self._counters = {spec: spec.build(self.registry) for spec in _of_kind(CounterSpec)}
        self._gauges = {spec: spec.build(self.registry) for spec in _of_kind(GaugeSpec)}
        self._histograms = {spec: spec.build(self.registry) for spec in _of_kind(HistogramSpec)}

    def tell_recorder(self, model: str) -> None:
        """From now on the metrics say that this process is among those that they speak for."""
        self.gauge(RECORDING_SINCE, model, self._recorder()).set(self._since)

    def counter(self, spec: CounterSpec, *labels: str) -> Counter:
        return self._counters[spec].labels(*labels)

    def counters(self, spec: CounterSpec, model: str) -> Callable[..., Counter]:
        """The children of a counter by its labels after `model`."""
        return lambda *labels: self._counters[spec].labels(model, *labels)

    def gauge(self, spec: GaugeSpec, *labels: str) -> Gauge:
        return self._gauges[spec].labels(*labels)

    def gauges(self, spec: GaugeSpec, model: str) -> Callable[..., Gauge]:
        """The children of a gauge by its labels after `model`."""
        return lambda *labels: self._gauges[spec].labels(model, *labels)

    def histogram(self, spec: HistogramSpec, *labels: str) -> Histogram:
        return self._histograms[spec].labels(*labels)


def _of_kind(kind: type[Spec]) -> Iterable[Spec]:
    return (spec for spec in declared() if isinstance(spec, kind))
