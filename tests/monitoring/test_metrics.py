"""The declarations, and what the recorders make of plain numbers, in one process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from model.request import EngineStats
from monitoring import metrics
from monitoring.metrics import CounterSpec, GaugeSpec, HistogramSpec
from monitoring.process import init, render
from monitoring.recorders import IngressMetrics, ReplicaMetrics

ALL = pytest.mark.parametrize("spec", metrics.DECLARED, ids=lambda spec: spec.name)


@pytest.fixture(autouse=True)
def _in_memory() -> Iterator[None]:
    init(None)
    yield
    init(None)


def samples(directory: Path | None = None) -> dict[tuple[str, frozenset], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(render(directory).decode())
        for sample in family.samples
    }


def value(name: str, **labels: str) -> float:
    return samples()[f"starcoder_{name}", frozenset({"model": "pico", **labels}.items())]


@ALL
def test_declarations_follow_prometheus_conventions(spec: CounterSpec | GaugeSpec | HistogramSpec) -> None:
    assert re.fullmatch(r"starcoder_[a-z][a-z0-9_]*", spec.full_name)
    assert len(spec.documentation) > 10
    assert spec.documentation.endswith(".")
    assert spec.labels[0] == "model"
    assert set(spec.labels) <= {"model", "finish_reason", "reason", "event", "language", "rule", "cause"}
    assert (spec.kind == "counter") == spec.name.endswith("_total")
    if isinstance(spec, HistogramSpec):
        assert spec.name.endswith("_seconds")
        assert list(spec.buckets) == sorted(set(spec.buckets))


def test_every_specification_of_the_module_is_declared_once() -> None:
    named = [spec for spec in vars(metrics).values() if isinstance(spec, CounterSpec | GaugeSpec | HistogramSpec)]
    assert sorted(spec.name for spec in named) == sorted(spec.name for spec in metrics.DECLARED)
    assert len({spec.name for spec in metrics.DECLARED}) == len(metrics.DECLARED)


def test_the_names_that_dashboards_rely_on() -> None:
    assert {spec.name for spec in metrics.DECLARED} >= {
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "num_requests_running",
        "num_requests_waiting",
        "kv_cache_usage_ratio",
        "prefix_cache_queries_total",
        "prefix_cache_hits_total",
        "prompt_tokens_total",
        "generation_tokens_total",
        "request_success_total",
        "num_preemptions_total",
        "spec_decode_num_draft_tokens_total",
        "spec_decode_num_accepted_tokens_total",
        "requests_rejected_total",
    }


def test_buckets_suit_typing() -> None:
    assert (metrics.FIRST_TOKEN_BUCKETS[0], metrics.FIRST_TOKEN_BUCKETS[-1]) == (0.005, 30.0)
    assert (metrics.INTER_TOKEN_BUCKETS[0], metrics.INTER_TOKEN_BUCKETS[-1]) == (0.001, 1.0)


def test_exposition_parses_with_types_and_documentation() -> None:
    ReplicaMetrics("pico")
    IngressMetrics("pico")
    families = {family.name: family for family in text_string_to_metric_families(render().decode())}
    for spec in metrics.DECLARED:
        family = families.pop(spec.full_name.removesuffix("_total"))
        assert (family.type, family.documentation) == (spec.kind, spec.documentation)
        assert family.samples, "series must exist before the first event, or their first rate is lost"
    assert not families


def test_label_values_are_escaped() -> None:
    ReplicaMetrics('a "quoted"\\\nname').first_token(0.1)
    assert any(dict(labels)["model"] == 'a "quoted"\\\nname' for _, labels in samples())


def test_engine_totals_become_counters_across_an_engines_restart() -> None:
    replica = ReplicaMetrics("pico")
    for total in (5, 5, 12, 3, 4):  # the engine is new before the 3
        replica.engine_stats(EngineStats(generation_tokens_total=total, prompt_tokens_total=2 * total))
    assert value("generation_tokens_total") == 12 + 4
    assert value("prompt_tokens_total") == 24 + 8


def test_engine_gauges_follow_the_engine_and_end_with_it() -> None:
    replica = ReplicaMetrics("pico")
    replica.engine_stats(EngineStats(running=3, waiting=2, kv_blocks_total=200, kv_blocks_used=50))
    assert value("num_requests_running") == 3
    assert value("num_requests_waiting") == 2
    assert value("kv_cache_usage_ratio") == 0.25
    replica.engine_lost()
    assert value("engine_restarts_total") == 1
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_ratio", "kv_cache_blocks"):
        assert value(name) == 0
    replica.engine_stats(EngineStats())
    assert value("kv_cache_usage_ratio") == 0


def test_tokens_that_leave_together_share_the_time() -> None:
    replica = ReplicaMetrics("pico")
    replica.inter_token(0.008, count=4)
    replica.inter_token(0.5)
    assert value("inter_token_latency_seconds_count") == 5
    assert value("inter_token_latency_seconds_sum") == pytest.approx(0.508)
    assert value("inter_token_latency_seconds_bucket", le="0.002") == 4
    assert value("inter_token_latency_seconds_bucket", le="0.5") == 5


def test_requests_are_counted_by_why_they_ended() -> None:
    replica, ingress = ReplicaMetrics("pico"), IngressMetrics("pico")
    replica.queued(0.002)
    for reason in ("stop", "stop", "length", "never heard of"):
        replica.request_finished(reason, 0.1)
    assert value("request_success_total", finish_reason="stop") == 2
    assert value("request_success_total", finish_reason="length") == 1
    assert value("request_success_total", finish_reason="error") == 1
    assert value("request_success_total", finish_reason="abort") == 0
    assert value("e2e_request_latency_seconds_count") == 4
    assert value("request_queue_time_seconds_count") == 1
    ingress.rejected("queue_full")
    ingress.rejected("never heard of")
    ingress.completion_event("select", "python")
    ingress.completion_event("select", "brainfuck")
    assert value("completion_events_total", event="select", language="python") == 1
    assert value("completion_events_total", event="select", language="other") == 1
    assert value("completion_events_total", event="view", language="python") == 0
    assert value("requests_rejected_total", reason="queue_full") == 1
    assert value("requests_rejected_total", reason="other") == 1


def test_a_second_place_gets_what_is_recorded_from_then_on(tmp_path: Path) -> None:
    ReplicaMetrics("pico").first_token(0.1)
    init(tmp_path)
    ReplicaMetrics("pico").first_token(0.1)
    key = ("starcoder_time_to_first_token_seconds_count", frozenset({("model", "pico")}))
    assert samples(tmp_path)[key] == 1


def test_stats_need_only_the_shape() -> None:
    stats = SimpleNamespace(**dict.fromkeys(EngineStats.__struct_fields__, 1))
    ReplicaMetrics("pico").engine_stats(stats)
    assert value("engine_steps_total") == 1
