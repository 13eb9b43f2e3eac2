"""How many engines the load asks for: queue and cache, not a count of HTTP requests."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingConfig, AutoscalingContext

    from deployments.settings import Settings

METRICS_INTERVAL_S = 2.0
LOOK_BACK_S = 10.0


class ReplicaLoad(NamedTuple):
    """What one replica reports: sequences in the batch, sequences that wait, share of the cache in use."""

    running: float = 0.0
    waiting: float = 0.0
    kv_usage: float = 0.0


def desired_replicas(
    loads: Sequence[ReplicaLoad], unassigned: float, target_sequences: float, target_kv_usage: float
) -> int:
    """Engines that bring sequences and cache use down to their targets.

    A new engine takes its share of both, so the totals are what counts. A sequence that waits because the cache
    is full claims as much cache as one that runs.

    loads: of every running replica. unassigned: requests that no replica has taken yet.
    """
    running = sum(load.running for load in loads)
    waiting = sum(load.waiting for load in loads) + unassigned
    kv_usage = sum(load.kv_usage for load in loads)
    by_sequences = (running + waiting) / target_sequences
    kv_claimed = kv_usage * (1 + waiting / running) if running else kv_usage
    # Cache claims matter only once the cache is what holds sequences back.
    crowded = any(load.kv_usage > target_kv_usage for load in loads)
    by_cache = kv_claimed / target_kv_usage if crowded else 0.0
    return max(1, math.ceil(max(by_sequences, by_cache) - 1e-9))


class ScalingPolicy:
    """`desired_replicas` as Serve calls it; Serve itself applies the bounds and the delays.

    Raises nothing: a replica that has not reported yet counts as idle.
    """

    def __init__(self, target_sequences: float, target_kv_usage: float) -> None:
        self.target_sequences = target_sequences
        self.target_kv_usage = target_kv_usage

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        loads = replica_loads(context.aggregated_metrics or {})
        unassigned = float(context.total_queued_requests or 0)
        desired = desired_replicas(loads, unassigned, self.target_sequences, self.target_kv_usage)
        return desired, {}


def replica_loads(metrics: Mapping[str, Mapping[Any, float]]) -> list[ReplicaLoad]:
    """Serve's {metric: {replica: value}} turned to one load a replica."""
    replicas = {replica for name in ReplicaLoad._fields for replica in metrics.get(name, {})}
    return [
        ReplicaLoad(**{name: metrics.get(name, {}).get(replica, 0.0) for name in ReplicaLoad._fields})
        for replica in replicas
    ]


def autoscaling_config(settings: Settings) -> AutoscalingConfig | None:
    """Serve's configuration of it, or None for a fixed number of replicas."""
    if settings.most_replicas == settings.min_replicas:
        return None
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

    with warnings.catch_warnings():
        # The default of 10 s is a long time for people who type; its successor is a cluster-wide variable.
        warnings.filterwarnings("ignore", message=".*metrics_interval_s.*", category=DeprecationWarning)
        return AutoscalingConfig(
            min_replicas=settings.min_replicas,
            max_replicas=settings.most_replicas,
            target_ongoing_requests=settings.target_ongoing_requests,
            metrics_interval_s=METRICS_INTERVAL_S,
            look_back_period_s=LOOK_BACK_S,
            upscale_delay_s=settings.upscale_delay_s,
            downscale_delay_s=settings.downscale_delay_s,
            policy=AutoscalingPolicy(
                policy_function="deployments.cluster.autoscaling:ScalingPolicy",
                policy_kwargs={
                    "target_sequences": settings.target_ongoing_requests,
                    "target_kv_usage": settings.target_kv_usage,
                },
            ),
        )
