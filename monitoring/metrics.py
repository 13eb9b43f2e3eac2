"""Every metric of StarCoder Serve, declared once.

Names and kinds are vLLM's, with the prefix `starcoder_`, so that its dashboards translate by one substitution.
Labels are bounded: the served model, and sets that are spelled out here. Never a key or a request id.

Source of the vocabulary: vLLM's `vllm/v1/metrics/loggers.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PREFIX = "starcoder_"

FINISH_REASONS = ("stop", "length", "abort", "error")
STOP_RULES = (
    *("line", "block", "suffix", "repetition", "special_token"),
    *("low_confidence", "max_time", "superseded"),
)
REJECTION_REASONS = ("queue_full", "invalid", "too_large", "deadline", "draining", "unavailable", "other")

COMPLETION_EVENT_KINDS = ("view", "select", "select_line", "dismiss")
LANGUAGES = (
    *("c", "clojure", "cpp", "csharp", "css", "dart", "elixir", "go", "haskell", "html", "java", "javascript"),
    *("javascriptreact", "json", "julia", "kotlin", "lua", "markdown", "perl", "php", "python", "r", "ruby", "rust"),
    *("scala", "shellscript", "sql", "swift", "typescript", "typescriptreact", "yaml", "other"),
)
"""Editors' identifiers; a language that is not among them counts as `other`."""

# A completion is felt as instant below 100 ms and given up on after seconds; vLLM's first bucket of tokens is
# 10 ms, above what a small model needs for one.
FIRST_TOKEN_BUCKETS = (
    *(0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
    *(0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0),
)
INTER_TOKEN_BUCKETS = (
    *(0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03),
    *(0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0),
)
QUEUE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
REQUEST_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0),
)

Spec = TypeVar("Spec", bound="MetricSpec")
MergeMode = Literal["livesum", "livemax"]


@dataclass(frozen=True)
class MetricSpec:
    """name: without the prefix. labels: `model`, the served name, is always one."""

    name: str
    documentation: str
    labels: tuple[str, ...] = ("model",)

    kind: ClassVar[str]

    @property
    def full_name(self) -> str:
        """The name of the family as Prometheus shows it; a histogram's series add `_bucket`, `_sum`, `_count`."""
        return PREFIX + self.name


@dataclass(frozen=True)
class CounterSpec(MetricSpec):
    kind: ClassVar[str] = "counter"

    def build(self, registry: CollectorRegistry) -> Counter:
        return Counter(self.full_name, self.documentation, self.labels, registry=registry)


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

    def build(self, registry: CollectorRegistry) -> Histogram:
        return Histogram(self.full_name, self.documentation, self.labels, registry=registry, buckets=self.buckets)


TIME_TO_FIRST_TOKEN = HistogramSpec(
    "time_to_first_token_seconds",
    "From the request's arrival at the replica to its first token.",
    buckets=FIRST_TOKEN_BUCKETS,
)
INTER_TOKEN_LATENCY = HistogramSpec(
    "inter_token_latency_seconds",
    "Between two tokens of one sequence; tokens that leave together share the time since the last ones.",
    buckets=INTER_TOKEN_BUCKETS,
)
E2E_REQUEST_LATENCY = HistogramSpec(
    "e2e_request_latency_seconds",
    "From the request's arrival at the replica to its end.",
    buckets=REQUEST_BUCKETS,
)
REQUEST_QUEUE_TIME = HistogramSpec(
    "request_queue_time_seconds",
    "From the sequence's arrival at the engine to the first step that ran it.",
    buckets=QUEUE_BUCKETS,
)
REQUEST_SUCCESS = CounterSpec(
    "request_success_total",
    "Sequences that have ended, by why: stop, length, abort (the client left), error (the engine failed).",
    labels=("model", "finish_reason"),
)
REQUESTS_REJECTED = CounterSpec(
    "requests_rejected_total",
    "Requests refused before the engine saw them, by why.",
    labels=("model", "reason"),
)
COMPLETION_EVENTS = CounterSpec(
    "completion_events_total",
    "What people did with the completions they saw, where an editor says so: view, select, select_line, dismiss.",
    labels=("model", "event", "language"),
)
SUPERSEDED = CounterSpec(
    "requests_superseded_total", "Requests given up because a newer one of the same editor session took their place."
)
WASTED_TOKENS = CounterSpec(
    "wasted_tokens_total",
    "Tokens generated for requests that were then superseded, and not taken over by the newer one.",
    labels=("model", "cause"),
)
TYPED_AHEAD_REQUESTS = CounterSpec(
    "typed_ahead_requests_total",
    "Requests answered, wholly or at first, from text that was generated before the user typed its beginning.",
)
TYPED_AHEAD_TOKENS = CounterSpec(
    "typed_ahead_tokens_total", "Tokens that such requests took over instead of generating them."
)
STOP_RULE_ENDS = CounterSpec(
    "stop_rule_ends_total",
    "Completions that a rule of the server ended or cut, by which.",
    labels=("model", "rule"),
)
REQUESTS_RUNNING = GaugeSpec("num_requests_running", "Sequences in the engines' current batches.")
REQUESTS_WAITING = GaugeSpec("num_requests_waiting", "Sequences that wait for a place in a batch.")
KV_CACHE_USAGE = GaugeSpec(
    "kv_cache_usage_ratio",
    "Share of the cache that running sequences hold, 0 to 1, in the node's fullest replica.",
    merge="livemax",
)
KV_CACHE_BLOCKS = GaugeSpec("kv_cache_blocks", "Blocks of the key/value cache, of all replicas of the node.")
KV_CACHE_BLOCKS_USED = GaugeSpec("kv_cache_blocks_used", "Blocks of the key/value cache that running sequences hold.")
PREFIX_CACHE_QUERIES = CounterSpec(
    "prefix_cache_queries_total", "Prompt tokens that were looked up in the prefix cache."
)
PREFIX_CACHE_HITS = CounterSpec("prefix_cache_hits_total", "Prompt tokens that the prefix cache held.")
PROMPT_TOKENS = CounterSpec("prompt_tokens_total", "Prompt tokens processed, those from the cache included.")
GENERATION_TOKENS = CounterSpec("generation_tokens_total", "Tokens generated.")
PREEMPTIONS = CounterSpec(
    "num_preemptions_total", "Sequences that lost their cache blocks to others and were computed again."
)
DRAFT_TOKENS = CounterSpec("spec_decode_num_draft_tokens_total", "Drafted tokens that were checked.")
ACCEPTED_DRAFT_TOKENS = CounterSpec("spec_decode_num_accepted_tokens_total", "Drafted tokens that were right.")
ENGINE_STEPS = CounterSpec("engine_steps_total", "Batches that the engines have run.")
ENGINE_RESTARTS = CounterSpec("engine_restarts_total", "Engines that died or hung and were given up.")

DECLARED: tuple[CounterSpec | GaugeSpec | HistogramSpec, ...] = (
    TIME_TO_FIRST_TOKEN,
    INTER_TOKEN_LATENCY,
    E2E_REQUEST_LATENCY,
    REQUEST_QUEUE_TIME,
    REQUEST_SUCCESS,
    REQUESTS_REJECTED,
    COMPLETION_EVENTS,
    SUPERSEDED,
    WASTED_TOKENS,
    TYPED_AHEAD_REQUESTS,
    TYPED_AHEAD_TOKENS,
    STOP_RULE_ENDS,
    REQUESTS_RUNNING,
    REQUESTS_WAITING,
    KV_CACHE_USAGE,
    KV_CACHE_BLOCKS,
    KV_CACHE_BLOCKS_USED,
    PREFIX_CACHE_QUERIES,
    PREFIX_CACHE_HITS,
    PROMPT_TOKENS,
    GENERATION_TOKENS,
    PREEMPTIONS,
    DRAFT_TOKENS,
    ACCEPTED_DRAFT_TOKENS,
    ENGINE_STEPS,
    ENGINE_RESTARTS,
)


class Families:
    """The declared metrics as one process holds them, on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters = {spec: spec.build(self.registry) for spec in _of_kind(CounterSpec)}
        self._gauges = {spec: spec.build(self.registry) for spec in _of_kind(GaugeSpec)}
        self._histograms = {spec: spec.build(self.registry) for spec in _of_kind(HistogramSpec)}

    def counter(self, spec: CounterSpec, *labels: str) -> Counter:
        return self._counters[spec].labels(*labels)

    def gauge(self, spec: GaugeSpec, *labels: str) -> Gauge:
        return self._gauges[spec].labels(*labels)

    def histogram(self, spec: HistogramSpec, *labels: str) -> Histogram:
        return self._histograms[spec].labels(*labels)


def _of_kind(kind: type[Spec]) -> Iterable[Spec]:
    return (spec for spec in DECLARED if isinstance(spec, kind))
