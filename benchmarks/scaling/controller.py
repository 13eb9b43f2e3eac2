"""Serve's controller in simulated time: what it collects of replicas, and what it makes of a policy's answer.

The configuration, the context, the time-weighted mean of a look-back period, scaling factors and delays are Serve's
own code (`ray.serve.config`, `_private.metrics_utils`, `autoscaling_policy`). Modelled after `_private.replica` and
`_private.autoscaling_state`: when a replica records and pushes, that a running replica's last report is kept, that
requests are counted by handles, and bounds. Simpler than there: all replicas record at the same moments, a push
arrives at once, and decisions fall each `TICK_S` instead of each 0.1 s. Not there: Ray's and Kubernetes' autoscalers,
whose time is part of the cold start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ray.serve import autoscaling_policy
from ray.serve._private.autoscaling_state import _resolve_policy_callable
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve._private.constants import RAY_SERVE_AUTOSCALING_METRIC_RECORD_INTERVAL_FACTOR
from ray.serve._private.metrics_utils import time_weighted_average
from ray.serve.config import AutoscalingConfig, AutoscalingContext

TICK_S = 2.0
DEPLOYMENT = DeploymentID("engine", "simulated")

Report = Mapping[str, float]
Series = list[TimeStampedValue]


class Controller:
    """target: replicas that are to be there, those included that start. Times in seconds, ascending."""

    def __init__(self, config: AutoscalingConfig) -> None:
        self.config = config
        self.target = config.min_replicas
        # As `ReplicaMetricsManager` and `RouterMetricsManager` do.
        self.record_every = min(
            config.look_back_period_s * RAY_SERVE_AUTOSCALING_METRIC_RECORD_INTERVAL_FACTOR, config.metrics_interval_s
        )
        self._policy = _resolve_policy_callable(config.policy)
        self._state: dict[str, Any] = {}
        self._recorded: dict[int, dict[str, Series]] = {}
        self._pushed: dict[int, dict[str, Series]] = {}
        self._requests: Series = []
        self._pushed_requests: Series = []
        self._pushed_at = -math.inf
        self._last_up: float | None = None
        self._last_down: float | None = None

    def record(self, now: float, reports: Mapping[int, Report], open_requests: float) -> None:
        """Each `record_every`. reports: by replica. A push follows where it is time."""
        for replica, report in reports.items():
            series = self._recorded.setdefault(replica, {name: [] for name in report})
            for name, value in report.items():
                series[name].append(TimeStampedValue(now, value))
        self._requests.append(TimeStampedValue(now, open_requests))
        if now - self._pushed_at < self.config.metrics_interval_s - 1e-6:
            return
        self._pushed_at = now
        start = now - self.config.look_back_period_s
        for replica in reports:
            for name, points in self._recorded[replica].items():
                self._recorded[replica][name] = [point for point in points if point.timestamp >= start]
            self._pushed[replica] = {name: list(points) for name, points in self._recorded[replica].items()}
        self._requests = [point for point in self._requests if point.timestamp >= start]
        self._pushed_requests = list(self._requests)

    def forget(self, replica: int) -> None:
        """It has stopped."""
        self._recorded.pop(replica, None)
        self._pushed.pop(replica, None)

    def decide(self, now: float, running: list[int]) -> int:
        """The new target, for the replicas that run now."""
        context = self.context(now, running)
        # The order of `_apply_autoscaling_config`, whose clock cannot be given.
        decision = autoscaling_policy._get_cold_start_scale_up_replicas(context)
        if decision is None:
            before = autoscaling_policy._extract_internal_policy_state(self._state)
            wanted, custom = self._policy(context)
            decision = autoscaling_policy._apply_scaling_factors(wanted, len(running), self.config)
            if running:
                decision, before = autoscaling_policy._apply_delay_logic(
                    max(0, decision), self.target, self.config, before, _now=now
                )
            self._state = {**(custom or {}), **before}
        decision = max(self.config.min_replicas, min(self.config.max_replicas, decision))
        self._last_up = now if decision > self.target else self._last_up
        self._last_down = now if decision < self.target else self._last_down
        self.target = decision
        return decision

    def context(self, now: float, running: list[int]) -> AutoscalingContext:
        ids = {replica: ReplicaID(str(replica), DEPLOYMENT) for replica in running}
        pushed = {ids[replica]: self._pushed[replica] for replica in running if replica in self._pushed}

        def by_name(value: Callable[[Series], Any]) -> dict[str, dict[ReplicaID, Any]]:
            found: dict[str, dict[ReplicaID, Any]] = {}
            for replica, metrics in pushed.items():
                for name, series in metrics.items():
                    found.setdefault(name, {})[replica] = value(series)
            return found

        return AutoscalingContext(
            deployment_id=DEPLOYMENT,
            deployment_name=DEPLOYMENT.name,
            app_name=DEPLOYMENT.app_name,
            current_num_replicas=len(running),
            target_num_replicas=self.target,
            running_replicas=list(ids.values()),
            total_num_requests=lambda: _mean(self._pushed_requests, now),
            total_queued_requests=0.0,
            aggregated_metrics=lambda: by_name(lambda series: _mean(series, now)),
            raw_metrics=lambda: by_name(lambda series: series),
            capacity_adjusted_min_replicas=self.config.min_replicas,
            capacity_adjusted_max_replicas=self.config.max_replicas,
            policy_state=dict(self._state),
            last_scale_up_time=self._last_up,
            last_scale_down_time=self._last_down,
            current_time=now,
            config=self.config,
        )


def _mean(series: Series, now: float) -> float:
    """As the controller aggregates it: the last value holds until now."""
    if not series:
        return 0.0
    return time_weighted_average(series, last_window_s=max(now - series[-1].timestamp, 1e-3)) or 0.0
