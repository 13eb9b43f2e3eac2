"""What the replica records of its engine: steps, statistics, starts and failures. The monitoring knows no engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from prometheus_client import Counter

from monitoring import labels, metrics
from monitoring.labels import bounded
from monitoring.process import families


class EngineSnapshot(Protocol):
    """What is read of an engine's statistics. totals: by the names of its counters; they grow while the engine lives.

    `model.statistics.EngineStats` has this shape.
    """

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def oldest_waiting_seconds(self) -> Mapping[int, float]: ...
    @property
    def kv_blocks_total(self) -> int: ...
    @property
    def kv_blocks_used(self) -> int: ...
    @property
    def kv_blocks_cached(self) -> int: ...
    @property
    def totals(self) -> Mapping[str, float]: ...


class StepTimes(Protocol):
    """Size of one step, and its seconds by part. `model.statistics.StepTiming` has this shape."""

    @property
    def sequences(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def schedule(self) -> float: ...
    @property
    def forward(self) -> float: ...
    @property
    def sample(self) -> float: ...
    @property
    def other(self) -> float: ...


class GpuUse(Protocol):
    """Memory of one GPU, in bytes. `model.statistics.GpuMemory` has this shape."""

    @property
    def gpu(self) -> str: ...
    @property
    def used(self) -> int: ...
    @property
    def total(self) -> int: ...


class RunningTotal:
    """Turns a total that someone else keeps into increments of a counter.

    A total that falls is a new engine's: it counts from zero.
    """

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._last = 0.0

    def update(self, total: float) -> None:
        self._counter.inc(total - self._last if total >= self._last else total)
        self._last = total


class EngineMetrics:
    """The metrics of one engine after another, as its replica restarts it."""

    def __init__(self, model: str) -> None:
        own = families()
        own.tell_recorder(model)
        self._own = own
        self._model = model
        self._gauges = {
            spec: own.gauge(spec, model)
            for spec in (
                metrics.REQUESTS_RUNNING,
                metrics.REQUESTS_WAITING,
                metrics.KV_CACHE_USAGE,
                metrics.KV_CACHE_BLOCKS,
                metrics.KV_CACHE_BLOCKS_USED,
                metrics.KV_CACHE_BLOCKS_FREE,
                metrics.KV_CACHE_BLOCKS_CACHED,
                metrics.ENGINES_UP,
            )
        }
        self._oldest = [own.gauge(metrics.OLDEST_WAITING, model, name) for name in labels.SERVICE_CLASSES]
        self._step = own.histogram(metrics.STEP_TIME, model)
        self._step_sequences = own.histogram(metrics.STEP_SEQUENCES, model)
        self._step_tokens = own.histogram(metrics.STEP_TOKENS, model)
        self._phases = [own.counter(metrics.STEP_PHASE_TIME, model, phase) for phase in labels.STEP_PHASES]
        self._phase_seconds = [0.0] * len(labels.STEP_PHASES)
        self._starts = own.counter(metrics.ENGINE_STARTS, model)
        self._failures = {cause: own.counter(metrics.RANK_FAILURES, model, cause) for cause in labels.FAILURE_CAUSES}
        self._totals = {spec.name: RunningTotal(own.counter(spec, model)) for spec in metrics.engine_counters()}

    def engine_ready(self, seconds: float, loading_seconds: Iterable[float], weight_bytes: Iterable[int]) -> None:
        """The engine answered its first heartbeat, `seconds` after the replica began.

        loading_seconds, weight_bytes: of each rank.
        """
        self._starts.inc()
        self._gauges[metrics.ENGINES_UP].set(1)
        self._own.gauge(metrics.TIME_TO_READY, self._model).set(seconds)
        self._own.gauge(metrics.WEIGHT_LOADING, self._model).set(max(loading_seconds, default=0.0))
        for rank, count in enumerate(weight_bytes):
            self._own.gauge(metrics.WEIGHT_BYTES, self._model, str(rank)).set(count)

    def device_limits(self, read_bytes_per_second: float | None, flops_per_second: float | None) -> None:
        """What one device could do, where that is configured."""
        for spec, limit in (
            (metrics.READ_BYTES_LIMIT, read_bytes_per_second),
            (metrics.FLOPS_LIMIT, flops_per_second),
        ):
            if limit is not None:
                self._own.gauge(spec, self._model).set(limit)

    def gpu_memory(self, gpus: Iterable[GpuUse]) -> None:
        """Memory of the ranks' GPUs."""
        for gpu in gpus:
            self._own.gauge(metrics.GPU_MEMORY_USED, self._model, gpu.gpu).set(gpu.used)
            self._own.gauge(metrics.GPU_MEMORY_TOTAL, self._model, gpu.gpu).set(gpu.total)

    def step(self, timing: StepTimes) -> None:
        """One step of the engine. Cheap, since it is called for every one: `engine_stats` adds the parts up."""
        self._step.observe(timing.seconds)
        self._step_sequences.observe(timing.sequences)
        self._step_tokens.observe(timing.tokens)
        seconds = self._phase_seconds
        seconds[0] += timing.schedule
        seconds[1] += timing.forward
        seconds[2] += timing.sample
        seconds[3] += timing.other

    def engine_stats(self, stats: EngineSnapshot) -> None:
        """The engine's newest statistics; a few times a second is often enough."""
        gauges = self._gauges
        gauges[metrics.REQUESTS_RUNNING].set(stats.running)
        gauges[metrics.REQUESTS_WAITING].set(stats.waiting)
        for number, oldest in enumerate(self._oldest):
            oldest.set(stats.oldest_waiting_seconds.get(number, 0.0))
        usage = stats.kv_blocks_used / stats.kv_blocks_total if stats.kv_blocks_total else 0.0
        gauges[metrics.KV_CACHE_USAGE].set(usage)
        gauges[metrics.KV_CACHE_BLOCKS].set(stats.kv_blocks_total)
        gauges[metrics.KV_CACHE_BLOCKS_USED].set(stats.kv_blocks_used)
        gauges[metrics.KV_CACHE_BLOCKS_FREE].set(stats.kv_blocks_total - stats.kv_blocks_used)
        gauges[metrics.KV_CACHE_BLOCKS_CACHED].set(stats.kv_blocks_cached)
        for name, total in self._totals.items():
            total.update(stats.totals.get(name, 0.0))
        for index, counter in enumerate(self._phases):
            counter.inc(self._phase_seconds[index])
            self._phase_seconds[index] = 0.0

    def engine_lost(self, cause: str) -> None:
        """The engine died or was given up: it runs nothing any more. Causes are labels.FAILURE_CAUSES."""
        self._failures[bounded(cause, labels.FAILURE_CAUSES)].inc()
        self.engine_stopped()

    def predecessor_killed(self) -> None:
        """The engine that this one replaces ended without a word: nobody has counted it yet."""
        self._failures["killed"].inc()

    def engine_stopped(self) -> None:
        """The engine runs nothing any more, as it should."""
        for gauge in (*self._gauges.values(), *self._oldest):
            gauge.set(0)
