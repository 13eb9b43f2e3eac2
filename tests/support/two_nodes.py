"""A Ray cluster of two nodes on this machine, on each of which processes record metrics as replicas do.

Prints the process ids of the recorders, one node a line, and then obeys lines from stdin: `start N` starts one more
recorder on node N and prints its process id. Ends when stdin does.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deployments.cluster.node_metrics import record_on_this_node
from deployments.command.ray_servers import start_node
from deployments.settings import Settings
from monitoring import ReplicaMetrics


class Recorder:
    """Counts tokens all the time, in a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        record_on_this_node(settings)
        self.metrics = ReplicaMetrics("two-nodes")
        self.metrics.engine_ready(1.0, [0.5], [1000])
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        recorder = self.metrics.of()
        while not threading.Event().wait(0.005):
            recorder.inter_token(0.005)
            recorder.superseded(2)

    def pid(self) -> int:
        return os.getpid()


def main() -> None:
    directory = Path(sys.argv[1])
    settings = Settings(metrics_dir=directory, metrics_port=0)
    options: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 80 << 20}
    head = {**options, "include_dashboard": False}
    cluster = Cluster()
    start_node(lambda: cluster.add_node(**head))
    start_node(lambda: cluster.add_node(**options))
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        nodes = [node["NodeID"] for node in ray.nodes()]
        actors = []

        def start(node: int) -> int:
            place = NodeAffinitySchedulingStrategy(nodes[node], soft=False)
            actor = ray.remote(Recorder).options(num_cpus=0.5, scheduling_strategy=place).remote(settings)
            actors.append(actor)
            return int(ray.get(actor.pid.remote()))

        for node in range(2):
            print(start(node), flush=True)
        for line in sys.stdin:
            print(start(int(line.split()[1])), flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
