"""All that a recorder is told, in one go, and all that a scrape says then: each number in its own series, no other."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from model.statistics import EngineStats, StepTiming
from monitoring import labels, metrics
from monitoring.ingress import IngressMetrics
from monitoring.labels import DeclaredLabels
from monitoring.process import expect_farewell, init, render
from monitoring.replica import ReplicaMetrics
from monitoring.routing import RoutingMetrics
from monitoring.usage import UsageMetrics

DECLARED = DeclaredLabels(apis=("tabby", "tgi"), rules=("block", "line"))


@pytest.fixture(autouse=True)
def _in_memory() -> Iterator[None]:
    init(None)
    yield
    init(None)


def told() -> dict[str, float]:
    """By name, team and other labels, but the model's, which all have; of histograms the sum and the count."""
    found = {}
    for family in text_string_to_metric_families(render().decode()):
        for sample in family.samples:
            assert sample.labels.pop("model") == "pico"
            values = [value for _, value in sorted(sample.labels.items(), key=lambda pair: (pair[0] != "team", pair))]
            if not sample.name.endswith(("_bucket", "_created", "recording_since_seconds")):
                found[" ".join([sample.name.removeprefix("starcoder_"), *values])] = sample.value
    return found


class Since:
    """What is another number than when this was made."""

    def __init__(self) -> None:
        self._before = told()

    def __call__(self) -> dict[str, float]:
        return {name: value for name, value in told().items() if value != self._before.get(name, 0.0)}


def test_a_request_at_the_replica() -> None:
    replica = ReplicaMetrics("pico", DECLARED)
    since, one = Since(), replica.of("red", "tgi")
    one.first_token(0.125)
    one.inter_token(0.5, count=2)
    one.inter_token(0.25)
    one.queued(0.75)
    one.queued(2.0, 2)
    one.prefilled(1.5)
    one.decoded(2.5)
    one.request_finished("length", 3.5)
    one.tokens(40, 16)
    one.displaced()
    one.superseded(7)
    one.cancelled(3)
    one.typed_ahead(12)
    replica.prompt_piece()
    replica.rule_ended("line")
    assert since() == {
        **{f"time_to_first_token_seconds_{of} red tgi": value for of, value in (("sum", 0.125), ("count", 1))},
        **{f"e2e_request_latency_seconds_{of} red tgi": value for of, value in (("sum", 3.5), ("count", 1))},
        **{f"inter_token_latency_seconds_{of} red": value for of, value in (("sum", 0.75), ("count", 3))},
        **{f"request_queue_time_seconds_{of} red": value for of, value in (("sum", 2.75), ("count", 2))},
        **{f"class_queue_time_seconds_{of} standard": value for of, value in (("sum", 0.75), ("count", 1))},
        **{f"class_queue_time_seconds_{of} batch": value for of, value in (("sum", 2.0), ("count", 1))},
        **{f"request_prefill_time_seconds_{of}": value for of, value in (("sum", 1.5), ("count", 1))},
        **{f"request_decode_time_seconds_{of}": value for of, value in (("sum", 2.5), ("count", 1))},
        **{f"request_prompt_tokens_{of} red": value for of, value in (("sum", 40), ("count", 1))},
        **{f"request_generation_tokens_{of}": value for of, value in (("sum", 16), ("count", 1))},
        "request_success_total red length": 1,
        "requests_displaced_total red": 1,
        "requests_superseded_total red": 1,
        "requests_cancelled_total red": 1,
        "wasted_tokens_total red superseded": 7,
        "wasted_tokens_total red cancelled": 3,
        "typed_ahead_requests_total red": 1,
        "typed_ahead_tokens_total red": 12,
        "session_prompt_pieces_total": 1,
        "stop_rule_ends_total line": 1,
    }


def test_a_recorder_is_made_once_and_is_of_the_default_team_if_nobody_says_whose() -> None:
    replica = ReplicaMetrics("pico", DECLARED)
    assert replica.of() is replica.of("default", "other")
    assert replica.of("red") is replica.of("red", "never heard of") is not replica.of("red", "tgi")
    with pytest.raises(KeyError):
        replica.rule_ended("never heard of")


def test_an_engine() -> None:
    replica = ReplicaMetrics("pico", DECLARED)
    since = Since()
    replica.engine_ready(9.0, [4.0, 5.0], [1000, 2000])
    replica.device_limits(2e12, 1e15)
    replica.gpu_memory([SimpleNamespace(gpu="GPU-1", used=3, total=8)])
    for _ in range(2):
        replica.step(StepTiming(sequences=2, tokens=30, seconds=1.0, schedule=0.125, forward=0.5, sample=0.25))
    oldest = {0: 0.5, 1: 60.0, 2: 7.0}
    stats = EngineStats(3, 2, kv_blocks_total=200, kv_blocks_used=50, oldest_waiting_seconds=oldest)
    stats.kv_blocks_cached = 70
    stats.totals = {spec.name: float(at) for at, spec in enumerate(metrics.engine_counters(), start=1)}
    replica.engine_stats(stats)
    replica.predecessor_killed()
    assert since() == {
        "engines_up": 1,
        "engine_starts_total": 1,
        "engine_ready_seconds": 9,
        "weight_loading_seconds": 5,
        "rank_weight_bytes 0": 1000,
        "rank_weight_bytes 1": 2000,
        "limit_read_bytes_per_second": 2e12,
        "limit_flops_per_second": 1e15,
        "gpu_memory_used_bytes GPU-1": 3,
        "gpu_memory_total_bytes GPU-1": 8,
        **{f"engine_step_seconds_{of}": value for of, value in (("sum", 2), ("count", 2))},
        **{f"engine_step_sequences_{of}": value for of, value in (("sum", 4), ("count", 2))},
        **{f"iteration_tokens_total_{of}": value for of, value in (("sum", 60), ("count", 2))},
        "engine_step_phase_seconds_total schedule": 0.25,
        "engine_step_phase_seconds_total forward": 1.0,
        "engine_step_phase_seconds_total sample": 0.5,
        "engine_step_phase_seconds_total other": 0.25,
        "num_requests_running": 3,
        "num_requests_waiting": 2,
        "queue_oldest_age_seconds interactive": 0.5,
        "queue_oldest_age_seconds standard": 60,
        "queue_oldest_age_seconds batch": 7,
        "kv_cache_usage_perc": 0.25,
        "kv_cache_blocks": 200,
        "kv_cache_blocks_used": 50,
        "kv_cache_blocks_free": 150,
        "kv_cache_blocks_cached": 70,
        "rank_failures_total killed": 1,
        **{spec.name: at for at, spec in enumerate(metrics.engine_counters(), start=1)},
    }


def test_what_ended_an_engine() -> None:
    replica = ReplicaMetrics("pico")
    since = Since()
    for number, cause in enumerate(labels.FAILURE_CAUSES, start=1):
        for _ in range(number):
            replica.engine_lost(cause)
    assert since() == {f"rank_failures_total {cause}": at for at, cause in enumerate(labels.FAILURE_CAUSES, start=1)}
    since = Since()
    replica.engine_lost("never heard of")
    assert since() == {"rank_failures_total other": len(labels.FAILURE_CAUSES) + 1}


def test_an_engine_without_ranks_or_blocks() -> None:
    replica = ReplicaMetrics("pico")
    replica.engine_ready(1.0, [], [])
    replica.engine_stats(EngineStats())
    assert (told()["weight_loading_seconds"], told()["kv_cache_usage_perc"]) == (0, 0)


def test_a_request_at_the_front() -> None:
    now = [100.0]
    front = IngressMetrics("pico", DECLARED, lambda: now[0])
    since = Since()
    now[0] = 101.0
    front.turned()
    for _ in range(3):
        front.request_received()
    front.request_closed()
    front.request_ended("shed", "tgi", "red")
    front.request_ended("never heard of", "never heard of")
    front.first_token(0.25, "tabby", "red")
    front.answered(0.5, "tabby", "red")
    front.answered(2.0)
    front.completion_event("dismiss", "go")
    front.engine_died(resumed=True)
    front.engine_died(resumed=True)
    front.engine_died(resumed=False)
    front.waiting_for_engine(4)
    front.rejected("quota", "red")
    front.rejected("never heard of")
    front.attribution.looked(matched=True, blocked=False, seconds=0.125)
    front.attribution.looked(matched=True, blocked=True, seconds=0.5)
    front.attribution.looked(matched=False, blocked=False, seconds=0.25)
    front.attribution.failed()
    assert since() == {
        "ingress_oldest_turn_timestamp_seconds": 101,
        "ingress_newest_turn_timestamp_seconds": 101,
        "requests_received_total": 3,
        "requests_open": 2,
        "requests_total red tgi shed": 1,
        "requests_total default other failed": 1,
        **{f"http_time_to_first_token_seconds_{of} red tabby": value for of, value in (("sum", 0.25), ("count", 1))},
        **{f"http_request_duration_seconds_{of} red tabby": value for of, value in (("sum", 0.5), ("count", 1))},
        **{f"http_request_duration_seconds_{of} default other": value for of, value in (("sum", 2), ("count", 1))},
        "completion_events_total dismiss go": 1,
        "requests_resumed_total": 2,
        "requests_lost_total": 1,
        "requests_waiting_for_engine": 4,
        "requests_rejected_total red quota": 1,
        "requests_rejected_total default other": 1,
        "attribution_completions_total": 3,
        "attribution_matches_total": 2,
        "attribution_blocked_total": 1,
        "attribution_failures_total": 1,
        **{f"attribution_seconds_{of}": value for of, value in (("sum", 0.875), ("count", 3))},
    }


def test_what_stands_there_before_anything_is_told() -> None:
    """Prometheus sees no increase in a series that begins above 0."""
    IngressMetrics("pico", DECLARED, lambda: 0.0)
    ReplicaMetrics("pico", DECLARED)
    there = told()
    assert {name: value for name, value in there.items() if value} == {"ingresses_up": 1}
    dialects = ("tabby", "tgi", "other")
    for name, values in {
        "requests_total default": [f"{dialect} {outcome}" for dialect in dialects for outcome in labels.OUTCOMES],
        "http_request_duration_seconds_count default": dialects,
        "time_to_first_token_seconds_count default": dialects,
        "requests_rejected_total default": labels.REJECTION_REASONS,
        "request_success_total default": labels.FINISH_REASONS,
        "wasted_tokens_total default": labels.WASTE_CAUSES,
        "usage_tokens_total default": labels.USAGE_KINDS,
        "rank_failures_total": labels.FAILURE_CAUSES,
        "stop_rule_ends_total": DECLARED.rules,
        "class_queue_time_seconds_count": labels.SERVICE_CLASSES,
        "completion_events_total": [f"{e} {of}" for e in labels.COMPLETION_EVENT_KINDS for of in labels.LANGUAGES],
    }.items():
        assert sorted(series for series in there if series.startswith(f"{name} ")) == sorted(
            f"{name} {value}" for value in values
        )
    assert {"engines_up", "usage_cost_usd_total default", "budget_used_ratio default"} <= there.keys()


@pytest.mark.parametrize("recorder", [IngressMetrics, ReplicaMetrics])
def test_one_of_either_kind_says_that_there_is_none_of_the_other(recorder: type) -> None:
    recorder("pico")
    there = told()
    assert (there["engines_up"], there["ingresses_up"]) == (0, recorder is IngressMetrics)


def test_a_router_and_whose_death_counts() -> None:
    routing = RoutingMetrics("pico")
    UsageMetrics("pico").used("red", "never heard of", 5, 0.5)
    since = Since()
    for number, reason in enumerate(labels.ROUTING_REASONS, start=1):
        for _ in range(number):
            routing.routed(reason, 64, 16)
    expect_farewell("engine", "pico")
    count = sum(range(1, len(labels.ROUTING_REASONS) + 1))
    assert since() == {
        **{f"routing_decisions_total {reason}": at for at, reason in enumerate(labels.ROUTING_REASONS, start=1)},
        "routing_known_prefix_tokens_total": 64 * count,
        "routing_expected_prefix_tokens_total": 16 * count,
    }
    assert (told()["process_deaths_total engine"], told()["usage_tokens_total red failed"]) == (0, 5)
