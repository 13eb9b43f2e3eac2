"""What the replica calls: plain numbers in, metrics out. `ingress.py` has the recorder of the HTTP front."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from prometheus_client import Counter

from monitoring import labels, metrics
from monitoring.ingress import IngressMetrics
from monitoring.labels import DEFAULT_TEAM, DIALECTS, bounded
from monitoring.process import families

__all__ = ["EngineSnapshot", "GpuUse", "IngressMetrics", "ReplicaMetrics", "RequestMetrics", "StepTimes"]


class EngineSnapshot(Protocol):
    """What is read of an engine's statistics. totals: by the names of its counters; they grow while the engine lives.

    `model.statistics.EngineStats` has this shape; the monitoring knows no engine.
    """

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def oldest_waiting_seconds(self) -> float: ...
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


class RequestMetrics:
    """The metrics of one team's requests by one dialect. Get it from `ReplicaMetrics.of`."""

    def __init__(self, model: str, team: str, dialect: str) -> None:
        own = families()
        self._first_token = own.histogram(metrics.TIME_TO_FIRST_TOKEN, model, team, dialect)
        self._request = own.histogram(metrics.E2E_REQUEST_LATENCY, model, team, dialect)
        self._inter_token = own.histogram(metrics.INTER_TOKEN_LATENCY, model, team)
        self._queue = own.histogram(metrics.REQUEST_QUEUE_TIME, model, team)
        self._prefill = own.histogram(metrics.REQUEST_PREFILL_TIME, model)
        self._decode = own.histogram(metrics.REQUEST_DECODE_TIME, model)
        self._prompt_tokens = own.histogram(metrics.REQUEST_PROMPT_TOKENS, model)
        self._generation_tokens = own.histogram(metrics.REQUEST_GENERATION_TOKENS, model)
        self._finished = {
            reason: own.counter(metrics.REQUEST_SUCCESS, model, team, reason) for reason in labels.FINISH_REASONS
        }
        self._superseded = own.counter(metrics.SUPERSEDED, model, team)
        self._cancelled = own.counter(metrics.CANCELLED, model, team)
        self._wasted = {cause: own.counter(metrics.WASTED_TOKENS, model, team, cause) for cause in labels.WASTE_CAUSES}
        self._typed_ahead_requests = own.counter(metrics.TYPED_AHEAD_REQUESTS, model, team)
        self._typed_ahead_tokens = own.counter(metrics.TYPED_AHEAD_TOKENS, model, team)

    def first_token(self, seconds: float) -> None:
        """A sequence's first token, `seconds` after its request arrived."""
        self._first_token.observe(seconds)

    def inter_token(self, seconds: float, count: int = 1) -> None:
        """`count` tokens that left together, `seconds` after the ones before: each took its share of the time."""
        for _ in range(count):
            self._inter_token.observe(seconds / count)

    def queued(self, seconds: float) -> None:
        """A sequence ran for the first time, `seconds` after it reached the engine."""
        self._queue.observe(seconds)

    def prefilled(self, seconds: float) -> None:
        """A sequence got its first token, `seconds` after the first step that ran it."""
        self._prefill.observe(seconds)

    def decoded(self, seconds: float) -> None:
        """A sequence got its last token, `seconds` after its first one."""
        self._decode.observe(seconds)

    def request_finished(self, finish_reason: str, seconds: float) -> None:
        """A sequence ended, `seconds` after its request arrived. An unknown reason counts as `error`."""
        self._finished.get(finish_reason, self._finished["error"]).inc()
        self._request.observe(seconds)

    def tokens(self, prompt: int, generated: int) -> None:
        """How many a sequence had when it ended."""
        self._prompt_tokens.observe(prompt)
        self._generation_tokens.observe(generated)

    def superseded(self, wasted_tokens: int) -> None:
        """A request was given up for a newer one of its session, after `wasted_tokens` had been generated for it."""
        self._superseded.inc()
        self._wasted["superseded"].inc(wasted_tokens)

    def cancelled(self, wasted_tokens: int) -> None:
        """A sequence was given up since its client left, after `wasted_tokens` had been generated for it."""
        self._cancelled.inc()
        self._wasted["cancelled"].inc(wasted_tokens)

    def typed_ahead(self, tokens: int) -> None:
        """A request took over `tokens` that were generated before the user typed the text before them."""
        self._typed_ahead_requests.inc()
        self._typed_ahead_tokens.inc(tokens)


class ReplicaMetrics:
    """The metrics of one replica, which runs one engine. Series of known teams exist, at zero, from the start.

    teams: those with keys. Raises ValueError for too many to tell apart.
    """

    def __init__(self, model: str, teams: Iterable[str] = ()) -> None:
        own = families()
        self._own = own
        self._model = model
        self._teams = labels.team_names(teams)
        self._requests: dict[tuple[str, str], RequestMetrics] = {}
        for team in self._teams[:-1]:
            for dialect in DIALECTS:
                self.of(team, dialect)
        gauges = {
            spec: own.gauge(spec, model)
            for spec in (
                metrics.REQUESTS_RUNNING,
                metrics.REQUESTS_WAITING,
                metrics.OLDEST_WAITING,
                metrics.KV_CACHE_USAGE,
                metrics.KV_CACHE_BLOCKS,
                metrics.KV_CACHE_BLOCKS_USED,
                metrics.KV_CACHE_BLOCKS_FREE,
                metrics.KV_CACHE_BLOCKS_CACHED,
                metrics.ENGINES_UP,
            )
        }
        self._gauges = gauges
        self._step = own.histogram(metrics.STEP_TIME, model)
        self._step_sequences = own.histogram(metrics.STEP_SEQUENCES, model)
        self._step_tokens = own.histogram(metrics.STEP_TOKENS, model)
        self._phases = [own.counter(metrics.STEP_PHASE_TIME, model, phase) for phase in labels.STEP_PHASES]
        self._phase_seconds = [0.0] * len(labels.STEP_PHASES)
        self._rule_ends = {rule: own.counter(metrics.STOP_RULE_ENDS, model, rule) for rule in labels.STOP_RULES}
        self._starts = own.counter(metrics.ENGINE_STARTS, model)
        self._failures = {cause: own.counter(metrics.RANK_FAILURES, model, cause) for cause in labels.FAILURE_CAUSES}

        self._totals = {spec.name: RunningTotal(own.counter(spec, model)) for spec in metrics.engine_counters()}

    def of(self, team: str = DEFAULT_TEAM, dialect: str = DIALECTS[-1]) -> RequestMetrics:
        """The recorder of a team's requests by a dialect; unknown ones are the team and the dialect `other`."""
        key = bounded(team, self._teams), bounded(dialect, DIALECTS)
        if key not in self._requests:
            self._requests[key] = RequestMetrics(self._model, *key)
        return self._requests[key]

    def superseded(self, wasted_tokens: int, team: str = DEFAULT_TEAM) -> None:
        """See `RequestMetrics.superseded`."""
        self.of(team).superseded(wasted_tokens)

    def typed_ahead(self, tokens: int, team: str = DEFAULT_TEAM) -> None:
        """See `RequestMetrics.typed_ahead`."""
        self.of(team).typed_ahead(tokens)

    def rule_ended(self, rule: str) -> None:
        """A rule of labels.STOP_RULES ended a completion. Raises KeyError for another."""
        self._rule_ends[rule].inc()

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
        gauges[metrics.OLDEST_WAITING].set(stats.oldest_waiting_seconds)
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

    def engine_stopped(self) -> None:
        """The engine runs nothing any more, as it should."""
        for gauge in self._gauges.values():
            gauge.set(0)
