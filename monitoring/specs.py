"""What a metric is: its name, kind, labels, unit and documentation, from which `prometheus_client` builds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.mmap_dict import mmap_key

PREFIX = "starcoder_"

MergeMode = Literal["livesum", "livemax", "livemin"]


@dataclass(frozen=True)
class MetricSpec:
    """name: without the prefix. labels: `model`, the served name, is the first of what processes record.

    vllm: whether vLLM has it under this name, with the prefix `vllm:`, and means the same.
    """

    name: str
    documentation: str
    labels: tuple[str, ...] = ("model",)
    vllm: bool = False

    kind: ClassVar[str]

    @property
    def full_name(self) -> str:
        """The name of the family as Prometheus shows it; a histogram's series add `_bucket`, `_sum`, `_count`."""
        return PREFIX + self.name


@dataclass(frozen=True)
class CounterSpec(MetricSpec):
    kind: ClassVar[str] = "counter"

    def key(self, *labels: str) -> str:
        """Of a series in the files of processes, by the values of its labels."""
        family = self.full_name.removesuffix("_total")
        return mmap_key(family, f"{family}_total", list(self.labels), list(labels), self.documentation)

    def build(self, registry: CollectorRegistry) -> Counter:
        return Counter(self.full_name, self.documentation, self.labels, registry=registry)


@dataclass(frozen=True)
class EngineCounterSpec(CounterSpec):
    """What the engine itself counts: `model.statistics.EngineCounters` keeps a total for each of these."""


@dataclass(frozen=True)
class GaugeSpec(MetricSpec):
    """merge: how the values of a node's living processes become one."""

    merge: MergeMode = "livesum"
    kind: ClassVar[str] = "gauge"

    def build(self, registry: CollectorRegistry) -> Gauge:
        return Gauge(self.full_name, self.documentation, self.labels, registry=registry, multiprocess_mode=self.merge)


@dataclass(frozen=True)
class HistogramSpec(MetricSpec):
    """buckets: upper bounds, in the metric's unit."""

    buckets: tuple[float, ...] = ()
    kind: ClassVar[str] = "histogram"

    @property
    def bucket(self) -> str:
        return f"{self.full_name}_bucket"

    @property
    def count(self) -> str:
        return f"{self.full_name}_count"

    @property
    def sum(self) -> str:
        return f"{self.full_name}_sum"

    def build(self, registry: CollectorRegistry) -> Histogram:
        return Histogram(self.full_name, self.documentation, self.labels, registry=registry, buckets=self.buckets)


@dataclass(frozen=True)
class PageGaugeSpec(MetricSpec):
    """What a node's exporter says of its own page: of no process's, and of no model."""

    labels: tuple[str, ...] = ()
    kind: ClassVar[str] = "gauge"

    def exposition(self, value: float) -> str:
        """In Prometheus' text format."""
        name = self.full_name
        return f"# HELP {name} {self.documentation}\n# TYPE {name} {self.kind}\n{name} {value!r}\n"


AnySpec = CounterSpec | GaugeSpec | HistogramSpec | PageGaugeSpec
Spec = TypeVar("Spec", bound=AnySpec)
BY_MODEL = ("model",)


class Section:
    """Metrics that stand together in the documentation. Each method declares one, in the order of the calls."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.specs: list[AnySpec] = []

    def counter(
        self, name: str, documentation: str, *, labels: tuple[str, ...] = BY_MODEL, vllm: bool = False
    ) -> CounterSpec:
        return self._declare(CounterSpec(name, documentation, labels, vllm))

    def engine_counter(self, name: str, documentation: str, *, vllm: bool = False) -> EngineCounterSpec:
        return self._declare(EngineCounterSpec(name, documentation, vllm=vllm))

    def gauge(
        self,
        name: str,
        documentation: str,
        *,
        labels: tuple[str, ...] = BY_MODEL,
        vllm: bool = False,
        merge: MergeMode = "livesum",
    ) -> GaugeSpec:
        return self._declare(GaugeSpec(name, documentation, labels, vllm, merge))

    def page_gauge(self, name: str, documentation: str) -> PageGaugeSpec:
        return self._declare(PageGaugeSpec(name, documentation))

    def histogram(
        self,
        name: str,
        documentation: str,
        *,
        labels: tuple[str, ...] = BY_MODEL,
        vllm: bool = False,
        buckets: tuple[float, ...],
    ) -> HistogramSpec:
        return self._declare(HistogramSpec(name, documentation, labels, vllm, buckets))

    def _declare(self, spec: Spec) -> Spec:
        self.specs.append(spec)
        return spec


# A completion is felt as instant below 100 ms and given up on after seconds; vLLM's first bucket of tokens is
# 10 ms, above what a small model needs for one.
FIRST_TOKEN_BUCKETS = (
    *(0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
    *(0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0),
)
FIRST_TOKEN_OBJECTIVE_S = 0.5
"""Of 100 first tokens, 99 are to come so soon. It is one of the buckets, and in `rules/recording.yaml` as well."""
INTER_TOKEN_BUCKETS = (
    *(0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03),
    *(0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0),
)
ATTRIBUTION_BUCKETS = (0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.002, 0.003, 0.005, 0.01, 0.03, 0.1)
QUEUE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
REQUEST_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0),
)
STEP_BUCKETS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05),
    *(0.075, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0),
)
SEQUENCE_BUCKETS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 256.0)
STEP_TOKEN_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0)
REQUEST_TOKEN_BUCKETS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0)
