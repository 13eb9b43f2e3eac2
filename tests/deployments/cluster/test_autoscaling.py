"""The scaling policy as a pure function, and as Serve gets it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.config import AutoscalingContext

from deployments.cluster.autoscaling import (
    DRAIN_S,
    STALE_S,
    ReplicaLoad,
    ScalingPolicy,
    Targets,
    autoscaling_config,
    needed_replicas,
)
from deployments.settings import Settings
from model.config import ConfigError

TARGETS = Targets(queue_delay=0.1, sequences=10, kv_usage=0.8)
DEPLOYMENT = DeploymentID("engine", "app")


def needed(*loads: ReplicaLoad, unassigned: float = 0.0, ordered: int = 0) -> float:
    return needed_replicas(loads, unassigned, TARGETS, ordered)


def policy(downscale_delay_s: float = 100.0) -> ScalingPolicy:
    return ScalingPolicy(*TARGETS, downscale_delay_s)


def context(
    loads: Mapping[str, ReplicaLoad | Mapping[str, float] | None],
    *,
    target: int | None = None,
    now: float = 1000.0,
    reported_at: float | None = None,
    state: dict[str, Any] | None = None,
    least: int = 1,
    most: int = 50,
    queued: float | None = 0.0,
) -> AutoscalingContext:
    """Serve's own, for replicas by name; None: it has not reported."""
    ids = {name: ReplicaID(name, DEPLOYMENT) for name in loads}
    values: dict[str, dict[ReplicaID, float]] = {}
    for name, load in loads.items():
        report = load._asdict() if isinstance(load, ReplicaLoad) else load or {}
        for metric, value in report.items():
            values.setdefault(metric, {})[ids[name]] = value
    at = now if reported_at is None else reported_at
    return AutoscalingContext(
        deployment_id=DEPLOYMENT,
        deployment_name="engine",
        app_name="app",
        current_num_replicas=len(loads),
        target_num_replicas=max(len(loads), least) if target is None else target,
        running_replicas=list(ids.values()),
        total_num_requests=0.0,
        total_queued_requests=queued,
        aggregated_metrics=values,
        raw_metrics={m: {i: [TimeStampedValue(at, v)] for i, v in by.items()} for m, by in values.items()},
        capacity_adjusted_min_replicas=least,
        capacity_adjusted_max_replicas=most,
        policy_state=state or {},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=now,
        config=None,
    )


def test_idle_needs_none_and_keeps_one() -> None:
    assert needed(ReplicaLoad(), ReplicaLoad()) == needed() == 0
    assert policy(0)(context({"a": ReplicaLoad()}))[0] == 1


def test_what_arrives_is_spread_until_it_waits_no_longer_than_the_target() -> None:
    """As Pollaczek and Khinchine: at the utilization that is left, the wait is the target."""
    residual, arriving = 0.04, 3.0
    engines = needed(ReplicaLoad(utilization=2, residual=residual), ReplicaLoad(utilization=1, residual=residual))
    utilization = arriving / engines
    assert utilization / (1 - utilization) * residual == pytest.approx(TARGETS.queue_delay)


def test_long_prompts_leave_less_of_an_engine_to_be_used() -> None:
    assert needed(ReplicaLoad(utilization=1, residual=0.2)) > needed(ReplicaLoad(utilization=1, residual=0.01))


def test_a_queue_is_worked_off_beside_what_arrives() -> None:
    assert needed(ReplicaLoad(utilization=1, queue_delay=0.1 + 3 * DRAIN_S)) == pytest.approx(4)


def test_a_queue_asks_for_no_more_than_starts_already() -> None:
    load = ReplicaLoad(utilization=1, queue_delay=0.1 + 30 * DRAIN_S)
    assert needed(load) == pytest.approx(31)
    assert needed(load, ordered=3) == 3
    assert needed(load._replace(utilization=5), ordered=3) == 5, "what arrives does"


def test_sequences_are_spread_to_the_target() -> None:
    assert needed(ReplicaLoad(open=15), ReplicaLoad(open=5)) == 2
    assert needed(ReplicaLoad(open=10), unassigned=20) == 3
    assert needed(ReplicaLoad(open=300), ReplicaLoad(open=5)) == 2.5, "a queue will have been worked off"


def test_a_full_cache_scales_up_though_few_sequences_run() -> None:
    """Three long prompts fill the cache and three more wait for it: two engines hold them, one does not."""
    assert math.ceil(needed(ReplicaLoad(running=3, waiting=3, kv_usage=0.95))) == 3
    assert math.ceil(needed(ReplicaLoad(running=3, waiting=0, kv_usage=0.95))) == 2
    assert needed(ReplicaLoad(running=3, waiting=6, kv_usage=0.5)) == 0


def test_what_was_needed_is_kept_for_the_delay() -> None:
    """As many as the highest need of the window, with a margin; not what is needed in a quiet moment of it."""
    scaling, state, answers = policy(100), {}, []
    for at, utilization in ((0, 4.4), (60, 1.0), (99, 2.6), (101, 0.1), (150, 0.1), (200, 0.1)):
        target = answers[-1] if answers else 5
        loads = {str(i): ReplicaLoad(utilization=utilization / target) for i in range(target)}
        count, state = scaling(context(loads, now=float(at), state=state))
        answers.append(count)
    assert answers == [5, 5, 5, 3, 3, 1]


def test_a_controller_that_has_forgotten_begins_anew() -> None:
    fresh = {str(i): ReplicaLoad() for i in range(4)}
    count, state = policy(100)(context(fresh, now=500.0))
    assert count == 4
    assert policy(100)(context(fresh, now=601.0, state=state))[0] == 1


def test_a_spike_in_the_past_does_not_scale_up() -> None:
    _, state = policy(100)(context({"a": ReplicaLoad(utilization=9)}, now=0.0))
    assert policy(100)(context({"a": ReplicaLoad()}, now=10.0, state=state))[0] == 1


@pytest.mark.parametrize(
    "silent",
    [None, {}, {"open": 1.0}, ReplicaLoad(utilization=math.nan)._asdict(), ReplicaLoad(open=math.inf)._asdict()],
)
def test_nothing_is_given_up_while_a_report_is_missing(silent: Mapping[str, float] | None) -> None:
    loads = {"a": ReplicaLoad(), "b": ReplicaLoad(), "c": silent}
    assert policy(0)(context(loads))[0] == 3
    assert policy(0)(context({"a": ReplicaLoad(utilization=7), "c": silent}))[0] == 7, "but more are asked for"


def test_an_old_report_is_none() -> None:
    loads = {"a": ReplicaLoad(utilization=7), "b": ReplicaLoad()}
    assert policy(0)(context(loads, reported_at=1000.0 - STALE_S + 1))[0] == 7
    assert policy(0)(context(loads, reported_at=1000.0 - STALE_S - 1))[0] == 2


def test_without_metrics_everything_stays() -> None:
    bare = context({"a": None, "b": None}, target=4, queued=None)
    bare._aggregated_metrics_value = bare._raw_metrics_value = None
    assert policy(0)(bare)[0] == 4
    assert policy(0)(context({}, target=2))[0] == 2, "none runs yet"


odd = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1e3)
reports = st.none() | st.dictionaries(st.sampled_from(ReplicaLoad._fields), odd)
fleets = st.dictionaries(st.sampled_from("abcdef"), reports)
GROWING = [name for name in ReplicaLoad._fields if name != "running"]
"""More that run instead of wait are no more load."""
usual = st.builds(ReplicaLoad, *[st.floats(0, 50)] * 6, st.floats(0, 1))


@settings(max_examples=60)
@given(fleets, st.integers(0, 60), st.integers(1, 5), st.integers(0, 5), st.floats(0, 1e9), odd)
def test_bounds_hold_whatever_is_reported(
    loads: dict[str, Any], target: int, least: int, more: int, now: float, queued: float
) -> None:
    scaling, state = policy(), {}
    for step in range(3):
        asked = context(
            loads, target=target, now=now + step, state=state, least=least, most=least + more, queued=queued
        )
        count, state = scaling(asked)
        assert least <= count <= least + more
        target = count


@given(st.lists(usual, min_size=1, max_size=4), st.integers(0, 3), st.sampled_from(GROWING), st.floats(0, 9))
def test_more_load_never_asks_for_fewer(loads: list[ReplicaLoad], which: int, name: str, more: float) -> None:
    which %= len(loads)
    heavier = list(loads)
    heavier[which] = loads[which]._replace(**{name: getattr(loads[which], name) + more})
    for ordered in (0, 9):
        assert needed(*heavier, ordered=ordered) >= needed(*loads, ordered=ordered) - 1e-9


@settings(max_examples=40)
@given(st.floats(0, 20), st.floats(0, 1), st.floats(0, 100), st.integers(1, 9), st.integers(0, 5))
def test_a_constant_load_settles(utilization: float, residual: float, open_: float, first: int, starting: int) -> None:
    """The load is the same however many share it; engines take some steps to start. The number moves one way."""
    scaling, state, target, running = policy(20), {}, first, first
    seen = [target]
    for at in range(0, 200, 2):
        loads = {
            str(i): ReplicaLoad(open=open_ / running, utilization=utilization / running, residual=residual)
            for i in range(running)
        }
        target, state = scaling(context(loads, target=target, now=float(at), state=state, most=400))
        seen.append(target)
        running = target if at % (2 * starting + 2) == 0 else min(running, target)
    changes = [b - a for a, b in itertools.pairwise(seen) if a != b]
    assert all(change > 0 for change in changes) or (len(changes) == 1 and changes[0] < 0)
    assert seen[-1] == seen[len(seen) // 2]


def test_fixed_number_of_replicas_has_no_autoscaling() -> None:
    assert autoscaling_config(Settings(min_replicas=2)) is None
    assert autoscaling_config(Settings(min_replicas=2, max_replicas=2)) is None


def test_serve_gets_the_policy_and_its_bounds() -> None:
    given_ = Settings(min_replicas=2, max_replicas=5, target_ongoing_requests=7, target_queue_delay_s=0.2)
    config = autoscaling_config(given_)
    assert config is not None
    assert (config.min_replicas, config.max_replicas, config.target_ongoing_requests) == (2, 5, 7)
    scaling = config.policy.get_policy()(**config.policy.policy_kwargs)
    assert scaling.targets == (0.2, 7, 0.8)
    assert scaling(context({"a": ReplicaLoad(open=8)}))[0] == 2


def test_sequences_are_bounded_by_the_batch_where_nobody_says() -> None:
    assert Settings(max_num_seqs=100).target_sequences == 80


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "61"])
def test_a_delay_that_cannot_be_aimed_for_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="target"):
        Settings.from_command_line(["--target-queue-delay-s", value])
