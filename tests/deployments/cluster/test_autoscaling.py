"""The scaling policy as a pure function, and as Serve gets it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from deployments.cluster.autoscaling import (
    ReplicaLoad,
    ScalingPolicy,
    autoscaling_config,
    desired_replicas,
    replica_loads,
)
from deployments.settings import Settings


def desired(*loads: ReplicaLoad, unassigned: float = 0.0) -> int:
    return desired_replicas(loads, unassigned, target_sequences=10, target_kv_usage=0.8)


def test_idle_keeps_one() -> None:
    assert desired(ReplicaLoad(), ReplicaLoad(), ReplicaLoad()) == 1
    assert desired() == 1


def test_sequences_are_spread_to_the_target() -> None:
    assert desired(ReplicaLoad(running=10)) == 1
    assert desired(ReplicaLoad(running=10, waiting=1)) == 2
    assert desired(ReplicaLoad(running=10, waiting=25), ReplicaLoad(running=5)) == 4


def test_requests_that_no_replica_has_taken_count() -> None:
    assert desired(ReplicaLoad(running=10), unassigned=20) == 3


def test_a_full_cache_scales_up_though_few_sequences_run() -> None:
    """Three long prompts fill the cache and three more wait for it: two engines hold them, one does not."""
    assert desired(ReplicaLoad(running=3, waiting=3, kv_usage=0.95)) == 3
    assert desired(ReplicaLoad(running=3, waiting=0, kv_usage=0.95)) == 2


def test_a_cache_below_its_target_asks_for_nothing() -> None:
    assert desired(ReplicaLoad(running=3, waiting=6, kv_usage=0.5)) == 1


@pytest.mark.parametrize("waiting", range(0, 100, 7))
def test_more_load_never_asks_for_fewer(waiting: int) -> None:
    for kv_usage in (0.0, 0.5, 0.79, 0.81, 1.0):
        less = desired(ReplicaLoad(running=5, waiting=waiting, kv_usage=kv_usage))
        assert desired(ReplicaLoad(running=5, waiting=waiting + 1, kv_usage=kv_usage)) >= less


def test_metrics_by_replica() -> None:
    metrics = {"running": {"a": 2.0, "b": 3.0}, "waiting": {"a": 1.0}, "running_requests": {"a": 9.0, "c": 1.0}}
    assert sorted(replica_loads(metrics)) == [ReplicaLoad(2, 1, 0), ReplicaLoad(3, 0, 0)]


def test_policy_reads_serves_context() -> None:
    policy = ScalingPolicy(target_sequences=10, target_kv_usage=0.8)
    context = SimpleNamespace(
        aggregated_metrics={"running": {"a": 10.0}, "waiting": {"a": 15.0}}, total_queued_requests=None
    )
    assert policy(context) == (3, {})  # type: ignore[arg-type]


def test_fixed_number_of_replicas_has_no_autoscaling() -> None:
    assert autoscaling_config(Settings(min_replicas=2)) is None
    assert autoscaling_config(Settings(min_replicas=2, max_replicas=2)) is None


def test_serve_gets_the_policy_and_its_bounds() -> None:
    config = autoscaling_config(Settings(min_replicas=2, max_replicas=5, target_ongoing_requests=7))
    assert config is not None
    assert (config.min_replicas, config.max_replicas) == (2, 5)
    policy = config.policy.get_policy()(**config.policy.policy_kwargs)
    context = SimpleNamespace(aggregated_metrics={"running": {"a": 8.0}}, total_queued_requests=0)
    assert policy(context)[0] == 2
