"""The simulated controller decides what Serve's own state decides, tick by tick, from the same reports."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from ray.serve import autoscaling_policy
from ray.serve._private import autoscaling_state
from ray.serve._private.common import RUNNING_REQUESTS_KEY, ReplicaID, ReplicaMetricReport
from ray.serve.config import AutoscalingConfig

from benchmarks.scaling import contenders
from benchmarks.scaling.controller import DEPLOYMENT, TICK_S, Controller

START_S = 120.0


class FakeTime:
    now = 0.0

    def time(self) -> float:
        return self.now

    monotonic = time


def load(at: float) -> float:
    """Requests a second that come: a swell, a jump, a quiet end."""
    return 3 + 2 * math.sin(at / 40) + (12 if 300 < at < 420 else 0) - (4 if at > 700 else 0)


def report(at: float, replicas: int) -> dict[str, float]:
    share = max(load(at), 0.0) / replicas
    return {
        "open": share,
        "queue_delay": share / 50,
        "utilization": share / 5,
        "residual": 0.05,
        "running": share,
        "waiting": 0.0,
        "kv_usage": 0.1,
    }


@pytest.mark.parametrize(
    "config",
    [
        contenders.ours(8),
        contenders.ours(8, downscale_delay_s=60),
        contenders.serve_default(8),
        contenders.counts(8, 4),
    ],
    ids=["ours", "ours, quicker", "Serve's default", "counts"],
)
def test_it_decides_as_serve_does(config: AutoscalingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime()
    monkeypatch.setattr(autoscaling_state, "time", clock)
    monkeypatch.setattr(autoscaling_policy, "time", clock)
    real = autoscaling_state.DeploymentAutoscalingState(DEPLOYMENT)
    info = SimpleNamespace(
        deployment_config=SimpleNamespace(autoscaling_config=config, gang_scheduling_config=None),
        target_capacity=None,
        target_capacity_direction=None,
        config_changed=lambda _: False,
    )
    theirs = real.register(info, 1)  # type: ignore[arg-type]
    simulated = Controller(config)
    ready = {0: 0.0}
    record, decisions = 0.0, []
    for tick in range(450):
        at = clock.now = tick * TICK_S
        running = [replica for replica, since in ready.items() if since <= at]
        if at >= record:
            record += simulated.record_every
            reports = {replica: report(at, len(running)) for replica in running}
            simulated.record(at, reports, load(at))
            pushed = simulated._pushed_at == at
            for replica in running if pushed else []:
                ids = ReplicaID(str(replica), DEPLOYMENT)
                series = {**simulated._pushed[replica]}
                if replica == running[0]:
                    series[RUNNING_REQUESTS_KEY] = simulated._pushed_requests
                real.record_request_metrics_for_replica(ReplicaMetricReport(ids, series, at))
        real.update_running_replica_ids([ReplicaID(str(replica), DEPLOYMENT) for replica in running])
        ours = simulated.decide(at, running)
        theirs = real.get_decision_num_replicas(theirs)
        decisions.append((ours, theirs))
        for _ in range(ours - len(ready)):
            ready[max(ready, default=-1) + 1] = at + START_S
        for replica in sorted(ready, reverse=True)[: max(len(ready) - ours, 0)]:
            del ready[replica]
            simulated.forget(replica)
            real.on_replica_stopped(ReplicaID(str(replica), DEPLOYMENT))
    assert [ours for ours, _ in decisions] == [other for _, other in decisions]
    assert len({ours for ours, _ in decisions}) > 2, "something happened"
