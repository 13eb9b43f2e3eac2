"""Clients that mean harm ask the real server: others do not wait for them, and nothing of theirs stays."""

from __future__ import annotations

import asyncio

import httpx
import numpy as np
import pytest

from benchmarks.server.hostile_clients import SLOW_HEAD, Server, attacks
from benchmarks.server.probing import Prober
from benchmarks.server.soak import HEALTH, HOSTILE, VERSION, Phase, against, during, load, settled
from tests.support.cluster import Cluster

pytestmark = pytest.mark.e2e

P95_S, MOST_S = 1.8, 2.7
ROUNDS = 4


async def test_hostile_clients_make_nobody_wait(cluster: Cluster) -> None:
    """Each kind of hostile request, four at a time, while twenty clients are slow with their heads.

    What has once stalled the front or a replica held it for 3 s and more, which breaks both bounds: a round takes 5 to
    10 s, so a third of the questions came too late. Without other work the slowest answer takes 0.2 to 0.5 s on two
    cores, with four more processes at work 1 s. Such work makes latencies longer, never shorter: a round in which
    somebody had to wait is repeated, and what stalls does it in each.
    """
    server, dead = Server.at(cluster.url), cluster.lines("engine.dead")
    requests = [against(server, attack) for attack in attacks() if attack.name != SLOW_HEAD]
    (slow,) = attacks(SLOW_HEAD)
    async with httpx.AsyncClient(base_url=cluster.url, timeout=120) as client:
        with Prober(cluster.url, (VERSION, HEALTH), 0.05, {}) as prober:
            dripping = [asyncio.create_task(slow.perform(server)) for _ in range(20)]
            try:
                for _ in range(ROUNDS):
                    phase = await load(HOSTILE, requests, clients=4, seconds=0, patience_s=120)
                    assert [(one.name, one.wrong) for one in phase.done if one.wrong] == []
                    if not (late := await asyncio.to_thread(too_late, prober, phase)):
                        break
                assert late == []
            finally:
                for task in dripping:
                    task.cancel()
                await asyncio.gather(*dripping, return_exceptions=True)
        await settled(client)
    assert cluster.lines("engine.dead") == dead


def too_late(prober: Prober, phase: Phase) -> list[str]:
    """What is beyond the bounds, with what ran meanwhile. Every question must have been answered."""
    found = []
    for path in (VERSION, HEALTH):
        probes = prober.between(phase.began, phase.ended, path)
        assert {probe.status for probe in probes} == {200}
        slowest = max(probes, key=lambda probe: probe.seconds)
        p95 = float(np.percentile([probe.seconds for probe in probes], 95))
        meanwhile = during(slowest, phase.done)
        said = f"{path}: p95 {p95:.3f} s, longest {slowest.seconds:.3f} s of {len(probes)}, during {meanwhile}"
        print(said)
        if p95 > P95_S or slowest.seconds > MOST_S:
            found.append(said)
    return found
