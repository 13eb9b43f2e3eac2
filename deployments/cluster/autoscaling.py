"""How many engines the load asks for: as many as keep the predicted queue delay of a new prompt near its target."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingConfig, AutoscalingContext

    from deployments.settings import Settings

METRICS_INTERVAL_S = 2.0
LOOK_BACK_S = 6.0
STALE_S = 15.0
"""A report so old says nothing of now; Serve itself keeps the last one of a replica for as long as it runs."""
DRAIN_S = 10.0
"""A queue beyond the target is to be worked off in this time, by engines beside those that new prompts keep busy."""
MOST_GROWTH = 2.0
"""Sequences in a long queue are worked off, too: they ask for twice as many engines at most."""
MARGIN = 1.1
"""Engines are given up only where those that are left would bear a tenth more."""
NEEDS = "needs"


class ReplicaLoad(NamedTuple):
    """What one replica reports, as `deployments.replica.demand` and its engine see it.

    open: sequences that run or wait, those of the background left out. queue_delay: predicted seconds. utilization:
    seconds of work that arrive a second. residual: mean seconds of the prompt that whoever comes finds at work.
    running, waiting: sequences, all of them. kv_usage: share of the cache in use.
    """

    open: float = 0.0
    queue_delay: float = 0.0
    utilization: float = 0.0
    residual: float = 0.0
    running: float = 0.0
    waiting: float = 0.0
    kv_usage: float = 0.0


class Targets(NamedTuple):
    """queue_delay: seconds. sequences: an engine. kv_usage: share of a cache."""

    queue_delay: float
    sequences: float
    kv_usage: float


def needed_replicas(loads: Sequence[ReplicaLoad], unassigned: float, targets: Targets, ordered: int = 0) -> float:
    """Engines, not rounded, that bring delay, sequences and cache use down to their targets. Monotone in every load.

    At utilization u a prompt waits u / (1 - u) * residual (Pollaczek and Khinchine), so that each engine may be
    used u = target / (target + residual): the sum over engines of utilization * (1 + residual / target) is what is
    needed. That follows from what arrives, and stays the same while engines start. What waits does not: it grows until
    they are there, and asks for no more than are `ordered` already.

    loads: of every running replica. unassigned: requests that no replica has taken yet.
    """
    by_delay = sum(load.utilization * (1 + load.residual / targets.queue_delay) for load in loads)
    excess = sum(load.queue_delay for load in loads) - targets.queue_delay * len(loads)
    by_queue = sum(load.utilization for load in loads) + max(excess, 0.0) / DRAIN_S
    by_sequences = (
        sum(min(load.open / targets.sequences, MOST_GROWTH) for load in loads) + unassigned / targets.sequences
    )
    waiting = max(by_queue, by_sequences, _by_cache(loads, targets.kv_usage))
    return max(by_delay, min(waiting, ordered) if ordered > len(loads) else waiting)


def _by_cache(loads: Sequence[ReplicaLoad], target: float) -> float:
    """A sequence that waits because the cache is full claims as much of it as one that runs."""
    if not any(load.kv_usage > target for load in loads):
        return 0.0
    running, waiting = sum(load.running for load in loads), sum(load.waiting for load in loads)
    kv_usage = sum(load.kv_usage for load in loads)
    return kv_usage * (1 + waiting / max(running, 1.0)) / target


class ScalingPolicy:
    """`needed_replicas` as Serve calls it. Serve adds the delay before scaling up.

    Scaling down waits here: never below what was needed at any time in the last `downscale_delay_s` (as the
    stabilization window of Kubernetes' HorizontalPodAutoscaler), and not at all while a replica's report is missing,
    old or no number. A controller that has forgotten begins a new window with the engines that it finds.

    Raises nothing.
    """

    def __init__(
        self, target_queue_delay_s: float, target_sequences: float, target_kv_usage: float, downscale_delay_s: float
    ) -> None:
        self.targets = Targets(target_queue_delay_s, target_sequences, target_kv_usage)
        self.downscale_delay_s = downscale_delay_s

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        target, now = context.target_num_replicas, context.current_time or 0.0
        loads, complete = replica_loads(context)
        raw = needed_replicas(loads, _number(context.total_queued_requests) or 0.0, self.targets, target)
        need, kept = _whole(raw), _whole(raw * MARGIN)
        needs = list((context.policy_state or {}).get(NEEDS) or [(now, target)])
        while needs and needs[-1][1] <= kept:
            needs.pop()
        needs.append((now, kept if complete else max(kept, target)))
        needs = [(at, count) for at, count in needs if at > now - self.downscale_delay_s] or needs[-1:]
        if need <= target:
            need = min(target, max(count for _, count in needs))
        low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return max(low, min(high, need)), {NEEDS: needs}


def replica_loads(context: AutoscalingContext) -> tuple[list[ReplicaLoad], bool]:
    """One load for each replica with a recent and whole report, and whether that is every running replica."""
    metrics, raw, now = context.aggregated_metrics or {}, context.raw_metrics or {}, context.current_time or 0.0
    loads = []
    for replica in context.running_replicas:
        values = [_number(metrics.get(name, {}).get(replica)) for name in ReplicaLoad._fields]
        series = raw.get(ReplicaLoad._fields[0], {}).get(replica)
        if None not in values and not (series and series[-1].timestamp < now - STALE_S):
            loads.append(ReplicaLoad(*(value or 0.0 for value in values)))
    return loads, len(loads) == len(context.running_replicas) > 0


def _number(value: float | None) -> float | None:
    """None for what is no finite number; nothing is below 0."""
    return max(float(value), 0.0) if value is not None and math.isfinite(value) else None


def _whole(replicas: float) -> int:
    return max(1, math.ceil(min(replicas, 1e9) - 1e-9))


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
            target_ongoing_requests=settings.target_sequences,
            metrics_interval_s=METRICS_INTERVAL_S,
            look_back_period_s=LOOK_BACK_S,
            upscale_delay_s=settings.upscale_delay_s,
            downscale_delay_s=0,  # the policy waits by itself, for the highest need of that time
            policy=AutoscalingPolicy(
                policy_function="deployments.cluster.autoscaling:ScalingPolicy",
                policy_kwargs={
                    "target_queue_delay_s": settings.target_queue_delay_s,
                    "target_sequences": settings.target_sequences,
                    "target_kv_usage": settings.target_kv_usage,
                    "downscale_delay_s": settings.downscale_delay_s,
                },
            ),
        )
