"""What the replica and the ingress call: plain numbers in, metrics out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from prometheus_client import Counter

from monitoring import metrics
from monitoring.process import families


class EngineSnapshot(Protocol):
    """What is read of an engine's statistics; `*_total` only grow while the engine lives.

    `model.request.EngineStats` has this shape; the monitoring knows no engine.
    """

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def kv_blocks_total(self) -> int: ...
    @property
    def kv_blocks_used(self) -> int: ...
    @property
    def steps_total(self) -> int: ...
    @property
    def prompt_tokens_total(self) -> int: ...
    @property
    def generation_tokens_total(self) -> int: ...
    @property
    def prefix_cache_queries_total(self) -> int: ...
    @property
    def prefix_cache_hits_total(self) -> int: ...
    @property
    def preemptions_total(self) -> int: ...
    @property
    def draft_tokens_total(self) -> int: ...
    @property
    def accepted_draft_tokens_total(self) -> int: ...


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


class ReplicaMetrics:
    """The metrics of one replica, which runs one engine. All series exist, at zero, from the start."""

    def __init__(self, model: str) -> None:
        own = families()
        self._first_token = own.histogram(metrics.TIME_TO_FIRST_TOKEN, model)
        self._inter_token = own.histogram(metrics.INTER_TOKEN_LATENCY, model)
        self._request = own.histogram(metrics.E2E_REQUEST_LATENCY, model)
        self._queue = own.histogram(metrics.REQUEST_QUEUE_TIME, model)
        self._finished = {
            reason: own.counter(metrics.REQUEST_SUCCESS, model, reason) for reason in metrics.FINISH_REASONS
        }
        self._superseded = own.counter(metrics.SUPERSEDED, model)
        self._wasted = own.counter(metrics.WASTED_TOKENS, model, "superseded")
        self._typed_ahead_requests = own.counter(metrics.TYPED_AHEAD_REQUESTS, model)
        self._typed_ahead_tokens = own.counter(metrics.TYPED_AHEAD_TOKENS, model)
        self._rule_ends = {rule: own.counter(metrics.STOP_RULE_ENDS, model, rule) for rule in metrics.STOP_RULES}
        self._running = own.gauge(metrics.REQUESTS_RUNNING, model)
        self._waiting = own.gauge(metrics.REQUESTS_WAITING, model)
        self._usage = own.gauge(metrics.KV_CACHE_USAGE, model)
        self._blocks = own.gauge(metrics.KV_CACHE_BLOCKS, model)
        self._blocks_used = own.gauge(metrics.KV_CACHE_BLOCKS_USED, model)
        self._restarts = own.counter(metrics.ENGINE_RESTARTS, model)

        def total(spec: metrics.CounterSpec) -> Callable[[float], None]:
            return RunningTotal(own.counter(spec, model)).update

        self._steps = total(metrics.ENGINE_STEPS)
        self._prompt_tokens = total(metrics.PROMPT_TOKENS)
        self._generation_tokens = total(metrics.GENERATION_TOKENS)
        self._cache_queries = total(metrics.PREFIX_CACHE_QUERIES)
        self._cache_hits = total(metrics.PREFIX_CACHE_HITS)
        self._preemptions = total(metrics.PREEMPTIONS)
        self._drafted = total(metrics.DRAFT_TOKENS)
        self._accepted = total(metrics.ACCEPTED_DRAFT_TOKENS)

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

    def request_finished(self, finish_reason: str, seconds: float) -> None:
        """A sequence ended, `seconds` after its request arrived. An unknown reason counts as `error`."""
        self._finished.get(finish_reason, self._finished["error"]).inc()
        self._request.observe(seconds)

    def superseded(self, wasted_tokens: int) -> None:
        """A newer request of its session ended a request; so many of its tokens nobody will use."""
        self._superseded.inc()
        self._wasted.inc(wasted_tokens)

    def typed_ahead(self, tokens: int) -> None:
        """A request took over `tokens` that were generated before the user typed the text before them."""
        self._typed_ahead_requests.inc()
        self._typed_ahead_tokens.inc(tokens)

    def rule_ended(self, rule: str) -> None:
        """A rule of metrics.STOP_RULES ended a completion."""
        self._rule_ends[rule].inc()

    def engine_stats(self, stats: EngineSnapshot) -> None:
        """The engine's newest statistics; call it as often as they come."""
        self._running.set(stats.running)
        self._waiting.set(stats.waiting)
        self._usage.set(stats.kv_blocks_used / stats.kv_blocks_total if stats.kv_blocks_total else 0.0)
        self._blocks.set(stats.kv_blocks_total)
        self._blocks_used.set(stats.kv_blocks_used)
        self._steps(stats.steps_total)
        self._prompt_tokens(stats.prompt_tokens_total)
        self._generation_tokens(stats.generation_tokens_total)
        self._cache_queries(stats.prefix_cache_queries_total)
        self._cache_hits(stats.prefix_cache_hits_total)
        self._preemptions(stats.preemptions_total)
        self._drafted(stats.draft_tokens_total)
        self._accepted(stats.accepted_draft_tokens_total)

    def engine_lost(self) -> None:
        """The engine died or was given up: it runs nothing any more."""
        self._restarts.inc()
        for gauge in (self._running, self._waiting, self._usage, self._blocks, self._blocks_used):
            gauge.set(0)


class IngressMetrics:
    """The metrics of one ingress process."""

    def __init__(self, model: str) -> None:
        self._rejected = {
            reason: families().counter(metrics.REQUESTS_REJECTED, model, reason) for reason in metrics.REJECTION_REASONS
        }
        self._events = {
            (event, language): families().counter(metrics.COMPLETION_EVENTS, model, event, language)
            for event in metrics.COMPLETION_EVENT_KINDS
            for language in metrics.LANGUAGES
        }

    def completion_event(self, event: str, language: str) -> None:
        """Somebody saw, took or dismissed a completion. Events are metrics.COMPLETION_EVENT_KINDS.

        A language that is none of metrics.LANGUAGES counts as `other`. Raises KeyError for an unknown event.
        """
        self._events[event, language if language in metrics.LANGUAGES else "other"].inc()

    def rejected(self, reason: str) -> None:
        """A request was refused. Reasons are metrics.REJECTION_REASONS; an unknown one counts as `other`."""
        self._rejected.get(reason, self._rejected["other"]).inc()
