"""The declarations, and what the recorders make of plain numbers, in one process."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from model.statistics import EngineStats, StepTiming
from monitoring import front_metrics, metrics, specs
from monitoring.connections import ConnectionMetrics
from monitoring.ingress import IngressMetrics
from monitoring.labels import MOST_TEAMS, OUTCOMES, DeclaredLabels, documented
from monitoring.metrics import ENGINE_STEPS, GENERATION_TOKENS, PROMPT_TOKENS
from monitoring.process import expect_farewell, init, render
from monitoring.replica import ReplicaMetrics
from monitoring.routing import RoutingMetrics
from monitoring.specs import HistogramSpec

DECLARED = DeclaredLabels(apis=("tabby", "tgi"), rules=("block", "line"))
ALL = pytest.mark.parametrize("spec", metrics.declared(), ids=lambda spec: spec.name)


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
    """Sum of the series that have these labels, among others; there must be one."""
    wanted = {"model": "pico", **labels}.items()
    found = [v for (n, have), v in samples().items() if n == f"starcoder_{name}" and wanted <= have]
    assert found, f"no {name} with {labels}"
    return sum(found)


@ALL
def test_declarations_follow_prometheus_conventions(spec: specs.AnySpec) -> None:
    assert re.fullmatch(r"starcoder_[a-z][a-z0-9_]*", spec.full_name)
    assert len(spec.documentation) > 10
    assert spec.documentation.endswith(".")
    assert spec.labels[:1] == (() if isinstance(spec, specs.PageGaugeSpec) else ("model",))
    assert set(spec.labels) <= documented(DECLARED).keys()
    # vLLM calls one histogram a total
    assert spec.name == "iteration_tokens_total" or (spec.kind == "counter") == spec.name.endswith("_total")
    if isinstance(spec, HistogramSpec):
        assert spec.name.endswith(("_seconds", "_tokens", "_sequences", "_tokens_total"))
        assert list(spec.buckets) == sorted(set(spec.buckets))


def test_every_specification_of_the_module_is_declared_once() -> None:
    things = [*vars(metrics).values(), *vars(front_metrics).values()]
    named = [spec for spec in things if isinstance(spec, specs.MetricSpec)]
    sections = {section.title for section in things if isinstance(section, specs.Section)}
    assert sections == {section.title for section in metrics.SECTIONS}
    assert sorted(spec.name for spec in named) == sorted(spec.name for spec in metrics.declared())
    assert len({spec.name for spec in metrics.declared()}) == len(metrics.declared())


def test_the_names_that_dashboards_rely_on() -> None:
    assert {spec.name for spec in metrics.declared()} >= {
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "num_requests_running",
        "num_requests_waiting",
        "kv_cache_usage_perc",
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
    assert (specs.FIRST_TOKEN_BUCKETS[0], specs.FIRST_TOKEN_BUCKETS[-1]) == (0.005, 30.0)
    assert (specs.INTER_TOKEN_BUCKETS[0], specs.INTER_TOKEN_BUCKETS[-1]) == (0.001, 1.0)


def test_exposition_parses_with_types_and_documentation() -> None:
    replica = ReplicaMetrics("pico", declared=DECLARED)
    replica.engine_ready(3.0, [1.0, 2.0], [100, 100])
    replica.device_limits(1e12, 1e15)
    replica.gpu_memory([SimpleNamespace(gpu="GPU-1", used=1, total=2)])
    IngressMetrics("pico", declared=DECLARED)
    ConnectionMetrics("pico")
    RoutingMetrics("pico")
    expect_farewell("engine", "pico")
    families = {family.name: family for family in text_string_to_metric_families(render().decode())}
    for spec in metrics.declared():
        if isinstance(spec, specs.PageGaugeSpec):
            continue
        total = spec.kind == "counter"
        family = families.pop(spec.full_name.removesuffix("_total") if total else spec.full_name)
        assert (family.type, family.documentation) == (spec.kind, spec.documentation)
        if spec in (front_metrics.PROBE_SUCCESS, front_metrics.PROBE_TIME):
            assert not family.samples, "the exporter says these, once the server has answered"
            continue
        assert family.samples, "series must exist before the first event, or their first rate is lost"
    assert not families


def test_label_values_are_escaped() -> None:
    ReplicaMetrics('a "quoted"\\\nname').of().first_token(0.1)
    assert any(dict(labels)["model"] == 'a "quoted"\\\nname' for _, labels in samples())


def test_engine_totals_become_counters_across_an_engines_restart() -> None:
    replica = ReplicaMetrics("pico")
    for total in (5, 5, 12, 3, 4):  # the engine is new before the 3
        replica.engine_stats(EngineStats(totals={GENERATION_TOKENS.name: total, PROMPT_TOKENS.name: 2 * total}))
    assert value("generation_tokens_total") == 12 + 4
    assert value("prompt_tokens_total") == 24 + 8


def test_engine_gauges_follow_the_engine_and_end_with_it() -> None:
    replica = ReplicaMetrics("pico")
    waits = {1: 0.5, 2: 60.0}
    replica.engine_stats(EngineStats(3, 2, kv_blocks_total=200, kv_blocks_used=50, oldest_waiting_seconds=waits))
    for name, seconds in {"interactive": 0, "standard": 0.5, "batch": 60}.items():
        assert value("queue_oldest_age_seconds", service_class=name) == seconds
    assert value("num_requests_running") == 3
    assert value("num_requests_waiting") == 2
    assert value("kv_cache_usage_perc") == 0.25
    replica.engine_ready(9.0, [4.0, 5.0], [1000, 1000])
    assert (value("engines_up"), value("engine_starts_total")) == (1, 1)
    assert (value("engine_ready_seconds"), value("weight_loading_seconds")) == (9, 5)
    assert value("rank_weight_bytes", rank="1") == 1000
    assert (value("kv_cache_blocks_free"), value("kv_cache_blocks")) == (150, 200)
    replica.engine_lost("hung")
    assert (value("rank_failures_total", cause="hung"), value("rank_failures_total")) == (1, 1)
    assert value("engines_up") == 0
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "kv_cache_blocks"):
        assert value(name) == 0
    assert value("queue_oldest_age_seconds") == 0
    replica.engine_stats(EngineStats())
    assert value("kv_cache_usage_perc") == 0


def test_a_process_says_once_that_it_records() -> None:
    before = time.time()
    init(None)
    ReplicaMetrics("pico"), IngressMetrics("pico"), ConnectionMetrics("pico")
    assert before <= value("recording_since_seconds", recorder=str(os.getpid())) <= time.time()
    assert value("recording_since_seconds") <= time.time(), "there is one series"


def test_tokens_that_leave_together_share_the_time() -> None:
    replica = ReplicaMetrics("pico").of()
    replica.inter_token(0.008, count=4)
    replica.inter_token(0.5)
    assert value("inter_token_latency_seconds_count") == 5
    assert value("inter_token_latency_seconds_sum") == pytest.approx(0.508)
    assert value("inter_token_latency_seconds_bucket", le="0.002") == 4
    assert value("inter_token_latency_seconds_bucket", le="0.5") == 5


def test_requests_are_counted_by_why_they_ended() -> None:
    replica, ingress = ReplicaMetrics("pico", declared=DECLARED).of("default", "tgi"), IngressMetrics("pico")
    replica.queued(0.002)
    for reason in ("stop", "stop", "length", "never heard of"):
        replica.request_finished(reason, 0.1)
    assert value("request_success_total", finished_reason="stop") == 2
    assert value("request_success_total", finished_reason="length") == 1
    assert value("request_success_total", finished_reason="error") == 1
    assert value("request_success_total", finished_reason="abort") == 0
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
    ReplicaMetrics("pico").of().first_token(0.1)
    init(tmp_path)
    ReplicaMetrics("pico").of().first_token(0.1)
    key = (
        "starcoder_time_to_first_token_seconds_count",
        frozenset({("model", "pico"), ("team", "default"), ("dialect", "other")}),
    )
    assert samples(tmp_path)[key] == 1


def test_stats_need_only_the_shape() -> None:
    shape = dict.fromkeys(EngineStats.__struct_fields__, 1)
    stats = SimpleNamespace(**shape | {"totals": {ENGINE_STEPS.name: 1}, "oldest_waiting_seconds": {}})
    ReplicaMetrics("pico").engine_stats(stats)
    assert value("engine_steps_total") == 1


def test_steps_are_split_and_measured() -> None:
    replica = ReplicaMetrics("pico")
    for tokens in (1, 300):
        replica.step(StepTiming(sequences=1, tokens=tokens, seconds=0.1, schedule=0.01, forward=0.07, sample=0.015))
    assert value("engine_step_seconds_count") == 2
    assert value("iteration_tokens_total_sum") == 301
    assert value("iteration_tokens_total_bucket", le="1.0") == 1
    replica.engine_stats(EngineStats(totals={ENGINE_STEPS.name: 2}))
    replica.engine_stats(EngineStats(totals={ENGINE_STEPS.name: 2}))
    assert value("engine_step_phase_seconds_total", phase="forward") == pytest.approx(0.14)
    assert value("engine_step_phase_seconds_total", phase="other") == pytest.approx(0.01)
    assert value("engine_step_phase_seconds_total") == pytest.approx(0.2)


def test_waste_and_reuse_are_counted_by_team() -> None:
    replica = ReplicaMetrics("pico", DECLARED)
    replica.of("red").superseded(7)
    replica.rule_ended("line")
    assert value("stop_rule_ends_total", rule="line") == value("stop_rule_ends_total") == 1
    replica.of("red").cancelled(3)
    replica.of("red", "tabby").typed_ahead(12)
    assert value("requests_superseded_total", team="red") == value("requests_cancelled_total", team="red") == 1
    assert value("wasted_tokens_total", cause="superseded") == 7
    assert value("wasted_tokens_total", team="red") == 10
    assert value("typed_ahead_tokens_total", team="red") == 12
    assert value("wasted_tokens_total", team="default") == 0


def test_an_ingress_says_when_its_loop_turned_and_how_much_is_open() -> None:
    now = [100.0]
    ingress = IngressMetrics("pico", clock=lambda: now[0])
    assert value("ingress_oldest_turn_timestamp_seconds") == value("ingress_newest_turn_timestamp_seconds") == 100
    now[0] = 103.0
    ingress.turned()
    assert value("ingress_oldest_turn_timestamp_seconds") == value("ingress_newest_turn_timestamp_seconds") == 103
    assert value("requests_received_total") == value("requests_open") == 0
    ingress.request_received()
    ingress.request_received()
    ingress.request_closed()
    assert (value("requests_received_total"), value("requests_open")) == (2, 1)


def test_a_teams_outcomes_begin_together_at_zero() -> None:
    IngressMetrics("pico", DECLARED).request_ended("ok", "tgi", "red")
    assert [value("requests_total", team="red", outcome=outcome) for outcome in OUTCOMES] == [1, 0, 0, 0, 0, 0]


def test_expected_prefixes_are_counted_beside_known_ones() -> None:
    routing = RoutingMetrics("pico")
    routing.routed("prefix", 64, 64)
    routing.routed("passed_over", 32, 16)
    assert value("routing_decisions_total", reason="passed_over") == 1
    assert value("routing_decisions_total", reason="session") == 0
    assert (value("routing_known_prefix_tokens_total"), value("routing_expected_prefix_tokens_total")) == (96, 80)


def test_no_client_adds_series() -> None:
    """Whatever team, dialect, outcome or reason somebody makes up, it falls into a set that is known."""
    replica, ingress = ReplicaMetrics("pico", DECLARED), IngressMetrics("pico", DECLARED)

    def use(name: str) -> None:
        recorder = replica.of(name, name)
        recorder.first_token(0.1)
        recorder.request_finished(name, 0.1)
        ingress.request_ended(name, name, name)
        ingress.first_token(0.1, name, name)
        ingress.answered(0.2, name, name)
        ingress.rejected(name, name)
        replica.engine_lost(name)

    for number in range(MOST_TEAMS + 1):
        use(f"made up {number}")
    before = len(samples())
    for number in range(1000):
        use(f"more {number}")
    assert len(samples()) == before
    assert value("time_to_first_token_seconds_count", team="other", dialect="other") == 1001
    assert value("http_time_to_first_token_seconds_count", team="other", dialect="other") == 1001
    assert value("requests_total", team="other", dialect="other", outcome="failed") == 1001
    assert value("requests_total", team="made up 0", dialect="other", outcome="failed") == 1


def test_every_outcome_of_the_default_team_exists_from_the_start() -> None:
    IngressMetrics("pico", DECLARED)
    series = [labels for name, labels in samples() if name == "starcoder_requests_total"]
    assert len(series) == len(DECLARED.dialects) * len(OUTCOMES)


def test_limits_are_absent_where_they_are_not_configured() -> None:
    replica = ReplicaMetrics("pico")
    replica.device_limits(None, None)
    assert not [name for name, _ in samples() if name.startswith("starcoder_limit_")]
    replica.device_limits(2e12, None)
    assert value("limit_read_bytes_per_second") == 2e12
