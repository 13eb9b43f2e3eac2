"""What is compared: fixed numbers of replicas, Serve's default policy, counts of sequences, and the server's policy."""

from __future__ import annotations

import math
import warnings
from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from deployments.cluster.autoscaling import LOOK_BACK_S, METRICS_INTERVAL_S, autoscaling_config
from deployments.settings import Settings

COUNTED_SEQUENCES = 32.0


class CountPolicy:
    """Sequences that run or wait, over a target: what the server gave to Serve before it knew of delays."""

    def __init__(self, target_sequences: float) -> None:
        self.target_sequences = target_sequences

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        metrics = context.aggregated_metrics or {}
        sequences = sum(sum(metrics.get(name, {}).values()) for name in ("running", "waiting"))
        return max(1, math.ceil(sequences / self.target_sequences - 1e-9)), {}


def serve_default(most: int, target_ongoing_requests: float | None = None) -> AutoscalingConfig:
    """Serve's own, as it is without any configuration but the bounds; or with another target."""
    given = {} if target_ongoing_requests is None else {"target_ongoing_requests": target_ongoing_requests}
    return AutoscalingConfig(min_replicas=1, max_replicas=most, **given)


def counts(most: int, target_sequences: float = COUNTED_SEQUENCES) -> AutoscalingConfig:
    """With the delays that the server's settings had."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return AutoscalingConfig(
            min_replicas=1,
            max_replicas=most,
            metrics_interval_s=METRICS_INTERVAL_S,
            look_back_period_s=LOOK_BACK_S,
            upscale_delay_s=10.0,
            downscale_delay_s=300.0,
            policy=AutoscalingPolicy(policy_function=CountPolicy, policy_kwargs={"target_sequences": target_sequences}),
        )


def ours(most: int, **settings: Any) -> AutoscalingConfig:
    """What `deployments.app` hands to Serve."""
    config = autoscaling_config(Settings(min_replicas=1, max_replicas=most, **settings))
    assert config is not None
    return config
