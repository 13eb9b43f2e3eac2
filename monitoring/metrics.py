"""Every metric of StarCoder Serve, declared once. `docs/metrics.md` is made from this file.

Where vLLM's v1 engine has a metric that means the same, the name is its, with the prefix `starcoder_`, so that its
dashboards translate by one substitution. Source: vLLM's `vllm/v1/metrics/loggers.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from monitoring.labels import (
    COMPLETION_EVENT_KINDS,
    FINISH_REASONS,
    LANGUAGES,
    OUTCOMES,
    REJECTION_REASONS,
)
from monitoring.specs import (
    FIRST_TOKEN_BUCKETS,
    INTER_TOKEN_BUCKETS,
    PREFIX,
    QUEUE_BUCKETS,
    REQUEST_BUCKETS,
    REQUEST_TOKEN_BUCKETS,
    SEQUENCE_BUCKETS,
    STEP_BUCKETS,
    STEP_TOKEN_BUCKETS,
    AnySpec,
    CounterSpec,
    GaugeSpec,
    HistogramSpec,
    MetricSpec,
)

__all__ = [
    "COMPLETION_EVENT_KINDS",
    "DECLARED",
    "FINISH_REASONS",
    "LANGUAGES",
    "OUTCOMES",
    "PREFIX",
    "REJECTION_REASONS",
    "SECTIONS",
    "Families",
]

BY_TEAM = ("model", "team")
BY_REQUEST = ("model", "team", "dialect")

# What clients see

HTTP_REQUESTS = CounterSpec(
    "requests_total",
    "HTTP requests for work (POST) that have ended, by how: ok, refused (4xx), shed (429), aborted (the client left), "
    "superseded, failed (5xx, or an error in a stream).",
    labels=("model", "team", "dialect", "outcome"),
)
TIME_TO_FIRST_TOKEN = HistogramSpec(
    "time_to_first_token_seconds",
    "From the request's arrival at the replica to its first token.",
    labels=BY_REQUEST,
    vllm=True,
    buckets=FIRST_TOKEN_BUCKETS,
)
INTER_TOKEN_LATENCY = HistogramSpec(
    "inter_token_latency_seconds",
    "Between two tokens of one sequence; tokens that leave together share the time since the last ones.",
    labels=BY_TEAM,
    vllm=True,
    buckets=INTER_TOKEN_BUCKETS,
)
E2E_REQUEST_LATENCY = HistogramSpec(
    "e2e_request_latency_seconds",
    "From the request's arrival at the replica to its end.",
    labels=BY_REQUEST,
    vllm=True,
    buckets=REQUEST_BUCKETS,
)
REQUEST_SUCCESS = CounterSpec(
    "request_success_total",
    "Sequences that have ended, by why: stop, length, abort (the client left), error (the engine failed).",
    labels=("model", "team", "finished_reason"),
    vllm=True,
)
REQUESTS_REJECTED = CounterSpec(
    "requests_rejected_total",
    "Requests refused before the engine ran them, by why.",
    labels=("model", "team", "reason"),
)
COMPLETION_EVENTS = CounterSpec(
    "completion_events_total",
    "What people did with the completions they saw, where an editor says so: view, select, select_line, dismiss.",
    labels=("model", "event", "language"),
)

# Where a request's time goes

REQUEST_QUEUE_TIME = HistogramSpec(
    "request_queue_time_seconds",
    "From the sequence's arrival at the engine to the first step that ran it.",
    labels=BY_TEAM,
    vllm=True,
    buckets=QUEUE_BUCKETS,
)
REQUEST_PREFILL_TIME = HistogramSpec(
    "request_prefill_time_seconds",
    "From the first step that ran the sequence to its first token, as the replica sees it.",
    vllm=True,
    buckets=QUEUE_BUCKETS,
)
REQUEST_DECODE_TIME = HistogramSpec(
    "request_decode_time_seconds",
    "From the sequence's first token to its last one.",
    vllm=True,
    buckets=REQUEST_BUCKETS,
)
REQUEST_PROMPT_TOKENS = HistogramSpec(
    "request_prompt_tokens",
    "Tokens of the prompts of sequences that ended, those from the cache included.",
    vllm=True,
    buckets=REQUEST_TOKEN_BUCKETS,
)
REQUEST_GENERATION_TOKENS = HistogramSpec(
    "request_generation_tokens",
    "Tokens generated for sequences that ended.",
    vllm=True,
    buckets=REQUEST_TOKEN_BUCKETS,
)
OLDEST_WAITING = GaugeSpec(
    "queue_oldest_age_seconds",
    "Age of the sequence that has waited longest for its first step, in the node's slowest replica; 0 if none waits.",
    merge="livemax",
)

# What is computed for nobody, and what need not be computed

SUPERSEDED = CounterSpec(
    "requests_superseded_total",
    "Requests given up because a newer one of the same editor session took their place.",
    labels=BY_TEAM,
)
CANCELLED = CounterSpec(
    "requests_cancelled_total", "Sequences given up because their client went away.", labels=BY_TEAM
)
WASTED_TOKENS = CounterSpec(
    "wasted_tokens_total",
    "Tokens generated for sequences that were then superseded or cancelled.",
    labels=("model", "team", "cause"),
)
TYPED_AHEAD_REQUESTS = CounterSpec(
    "typed_ahead_requests_total",
    "Requests answered, wholly or at first, from text that was generated before the user typed its beginning.",
    labels=BY_TEAM,
)
TYPED_AHEAD_TOKENS = CounterSpec(
    "typed_ahead_tokens_total", "Tokens that such requests took over instead of generating them.", labels=BY_TEAM
)

STOP_RULE_ENDS = CounterSpec(
    "stop_rule_ends_total",
    "Completions that a rule of the server ended or cut, by which.",
    labels=("model", "rule"),
)

# The engine's steps

REQUESTS_RUNNING = GaugeSpec("num_requests_running", "Sequences in the engines' current batches.", vllm=True)
REQUESTS_WAITING = GaugeSpec("num_requests_waiting", "Sequences that wait for a place in a batch.", vllm=True)
ENGINE_STEPS = CounterSpec("engine_steps_total", "Batches that the engines have run.")
STEP_TIME = HistogramSpec("engine_step_seconds", "Length of one step, from scheduling to tokens.", buckets=STEP_BUCKETS)
STEP_PHASE_TIME = CounterSpec(
    "engine_step_phase_seconds_total",
    "Time of the steps by part: schedule (drafting, scheduling, building the batch), forward (the network on every "
    "rank), sample (logits to tokens; on a GPU also the wait for them), other (bookkeeping).",
    labels=("model", "phase"),
)
STEP_SEQUENCES = HistogramSpec("engine_step_sequences", "Sequences in one step.", buckets=SEQUENCE_BUCKETS)
STEP_TOKENS = HistogramSpec(
    "iteration_tokens_total",
    "Tokens in one step, prompt tokens, decoded tokens and drafts (a histogram: the name is vLLM's).",
    vllm=True,
    buckets=STEP_TOKEN_BUCKETS,
)
PROMPT_TOKENS = CounterSpec("prompt_tokens_total", "Prompt tokens processed, those from the cache included.", vllm=True)
GENERATION_TOKENS = CounterSpec("generation_tokens_total", "Tokens generated.", vllm=True)
PREEMPTIONS = CounterSpec(
    "num_preemptions_total", "Sequences that lost their cache blocks to others and were computed again.", vllm=True
)
DRAFT_TOKENS = CounterSpec("spec_decode_num_draft_tokens_total", "Drafted tokens that were checked.", vllm=True)
ACCEPTED_DRAFT_TOKENS = CounterSpec(
    "spec_decode_num_accepted_tokens_total", "Drafted tokens that were right.", vllm=True
)

# The key/value cache

KV_CACHE_USAGE = GaugeSpec(
    "kv_cache_usage_perc",
    "Share of the cache that running sequences hold, 0 to 1, in the node's fullest replica.",
    vllm=True,
    merge="livemax",
)
KV_CACHE_BLOCKS = GaugeSpec("kv_cache_blocks", "Blocks of the key/value cache, of all replicas of the node.")
KV_CACHE_BLOCKS_USED = GaugeSpec("kv_cache_blocks_used", "Blocks of the key/value cache that running sequences hold.")
KV_CACHE_BLOCKS_FREE = GaugeSpec(
    "kv_cache_blocks_free", "Blocks of the key/value cache that nobody holds, with cached content or without."
)
KV_CACHE_BLOCKS_CACHED = GaugeSpec(
    "kv_cache_blocks_cached", "Blocks of the key/value cache whose content a new prompt can find, held or free."
)
PREFIX_CACHE_QUERIES = CounterSpec(
    "prefix_cache_queries_total", "Prompt tokens that were looked up in the prefix cache.", vllm=True
)
PREFIX_CACHE_HITS = CounterSpec("prefix_cache_hits_total", "Prompt tokens that the prefix cache held.", vllm=True)

# How near the hardware's limits

READ_BYTES = CounterSpec(
    "estimated_read_bytes_per_gpu_total",
    "Bytes of weights and cache that each rank's steps had to read, computed from the batches.",
    vllm=True,
)
FLOPS = CounterSpec(
    "estimated_flops_per_gpu_total",
    "Floating-point operations that each rank's steps had to do, computed from the batches.",
    vllm=True,
)
READ_BYTES_LIMIT = GaugeSpec(
    "limit_read_bytes_per_second",
    "Memory bandwidth of one device, as configured; absent where it is not.",
    merge="livemax",
)
FLOPS_LIMIT = GaugeSpec(
    "limit_flops_per_second",
    "Floating-point operations of one device a second, as configured; absent where it is not.",
    merge="livemax",
)
WEIGHT_BYTES = GaugeSpec(
    "rank_weight_bytes",
    "Bytes of weights that a rank holds, summed over the node's replicas.",
    labels=("model", "rank"),
)
GPU_MEMORY_USED = GaugeSpec(
    "gpu_memory_used_bytes", "Memory in use on a GPU, by whomever.", labels=("model", "gpu"), merge="livemax"
)
GPU_MEMORY_TOTAL = GaugeSpec("gpu_memory_total_bytes", "Memory of a GPU.", labels=("model", "gpu"), merge="livemax")

# Replicas: starts and failures

ENGINES_UP = GaugeSpec("engines_up", "Engines of the node that have loaded and not failed.")
ENGINE_STARTS = CounterSpec("engine_starts_total", "Engines that became ready.")
RANK_FAILURES = CounterSpec(
    "rank_failures_total",
    "Engines that were given up, and then restarted, since a rank died, hung in a step or missed its heartbeat.",
    labels=("model", "cause"),
)
TIME_TO_READY = GaugeSpec(
    "engine_ready_seconds",
    "From the replica's start to its engine's first heartbeat, of the node's slowest living replica.",
    merge="livemax",
)
WEIGHT_LOADING = GaugeSpec(
    "weight_loading_seconds",
    "Time the slowest rank took to load its weights and make its cache, of the node's slowest living replica.",
    merge="livemax",
)

SECTIONS: dict[str, tuple[AnySpec, ...]] = {
    "What clients see": (
        HTTP_REQUESTS,
        TIME_TO_FIRST_TOKEN,
        INTER_TOKEN_LATENCY,
        E2E_REQUEST_LATENCY,
        REQUEST_SUCCESS,
        REQUESTS_REJECTED,
        COMPLETION_EVENTS,
    ),
    "Where a request's time goes": (
        REQUEST_QUEUE_TIME,
        REQUEST_PREFILL_TIME,
        REQUEST_DECODE_TIME,
        REQUEST_PROMPT_TOKENS,
        REQUEST_GENERATION_TOKENS,
        OLDEST_WAITING,
    ),
    "What is computed for nobody, and what need not be computed": (
        SUPERSEDED,
        CANCELLED,
        WASTED_TOKENS,
        TYPED_AHEAD_REQUESTS,
        TYPED_AHEAD_TOKENS,
        STOP_RULE_ENDS,
    ),
    "The engine's steps": (
        REQUESTS_RUNNING,
        REQUESTS_WAITING,
        ENGINE_STEPS,
        STEP_TIME,
        STEP_PHASE_TIME,
        STEP_SEQUENCES,
        STEP_TOKENS,
        PROMPT_TOKENS,
        GENERATION_TOKENS,
        PREEMPTIONS,
        DRAFT_TOKENS,
        ACCEPTED_DRAFT_TOKENS,
    ),
    "The key/value cache": (
        KV_CACHE_USAGE,
        KV_CACHE_BLOCKS,
        KV_CACHE_BLOCKS_USED,
        KV_CACHE_BLOCKS_FREE,
        KV_CACHE_BLOCKS_CACHED,
        PREFIX_CACHE_QUERIES,
        PREFIX_CACHE_HITS,
    ),
    "How near the hardware's limits": (
        READ_BYTES,
        FLOPS,
        READ_BYTES_LIMIT,
        FLOPS_LIMIT,
        WEIGHT_BYTES,
        GPU_MEMORY_USED,
        GPU_MEMORY_TOTAL,
    ),
    "Replicas: starts and failures": (
        ENGINES_UP,
        ENGINE_STARTS,
        RANK_FAILURES,
        TIME_TO_READY,
        WEIGHT_LOADING,
    ),
}

DECLARED: tuple[AnySpec, ...] = tuple(spec for specs in SECTIONS.values() for spec in specs)

Spec = TypeVar("Spec", bound=MetricSpec)


class Families:
    """The declared metrics as one process holds them, on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters = {spec: spec.build(self.registry) for spec in _of_kind(CounterSpec)}
        self._gauges = {spec: spec.build(self.registry) for spec in _of_kind(GaugeSpec)}
        self._histograms = {spec: spec.build(self.registry) for spec in _of_kind(HistogramSpec)}

    def counter(self, spec: CounterSpec, *labels: str) -> Counter:
        return self._counters[spec].labels(*labels)

    def counters(self, spec: CounterSpec, model: str) -> Callable[..., Counter]:
        """The children of a counter by its labels after `model`."""
        return lambda *labels: self._counters[spec].labels(model, *labels)

    def gauge(self, spec: GaugeSpec, *labels: str) -> Gauge:
        return self._gauges[spec].labels(*labels)

    def histogram(self, spec: HistogramSpec, *labels: str) -> Histogram:
        return self._histograms[spec].labels(*labels)


def _of_kind(kind: type[Spec]) -> Iterable[Spec]:
    return (spec for spec in DECLARED if isinstance(spec, kind))
