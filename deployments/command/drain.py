"""`python -m deployments.command.drain`: what a worker does before it is ended, as Kubernetes' preStop hook.

Ray is told that the node goes. Serve then starts its engines and ingresses elsewhere, routes new requests there, and
lets open streams end here, until the deadline. This waits until nothing of Serve is left in the pod.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

POLL_S = 1.0
LOST_S = 30.0
"""A cluster that has not answered for so long is gone itself: there is nobody left to drain for."""

REPLICA = b"ray::ServeReplica"


class Cluster(Protocol):
    def drain(self, deadline_ms: int) -> None:
        """Ask for this node to be drained. Raises ConnectionError, RuntimeError."""

    def answers(self) -> bool:
        """Whether the cluster's head is there."""


def drain(
    cluster: Cluster,
    replicas: Callable[[], int],
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    lost_s: float = LOST_S,
) -> str:
    """Drain, then wait until no replica is left here, at most `seconds`; how it ended. Raises nothing."""
    if not replicas():
        return "nothing of Serve runs here"
    try:
        cluster.drain(int((time.time() + seconds) * 1000))
    except Exception as error:  # whatever it is, the pod ends; better without a drain than not at all
        return f"the cluster did not take the request: {error}"
    deadline = clock() + seconds
    seen_at = clock()
    while replicas():
        now = clock()
        if now >= deadline:
            return f"after {seconds:g} s there are still replicas here"
        if cluster.answers():
            seen_at = clock()
        elif now - seen_at > lost_s:
            return "the cluster has gone"
        sleep(POLL_S)
    return "drained"


def local_replicas(processes: Path = Path("/proc")) -> int:
    """Processes of Serve replicas in this pod."""
    count = 0
    for file in processes.glob("[0-9]*/cmdline"):
        try:
            count += file.read_bytes().startswith(REPLICA)
        except OSError:  # it ended meanwhile
            continue
    return count


class RayCluster:
    """The cluster at RAY_ADDRESS, or of the Ray node that runs here; nobody looks for it before `drain`.

    node_id: of the node to drain; the one at this machine's address if not given.
    """

    def __init__(self, node_id: str | None = None) -> None:
        self._node_id = node_id

    @cached_property
    def _client(self) -> Any:
        """Raises ConnectionError, RuntimeError: where nobody answers, after the 40 s that Ray looks for it."""
        from ray._private.services import canonicalize_bootstrap_address_or_die
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        try:
            return GcsClient(address=canonicalize_bootstrap_address_or_die(None))
        except SystemExit as error:
            raise ConnectionError(f"there is no cluster here: {error}") from error

    def _this_node(self) -> str:
        from ray.core.generated.gcs_pb2 import GcsNodeInfo
        from ray.util import get_node_ip_address

        address = get_node_ip_address()
        for node_id, node in self._client.get_all_node_info(timeout=10).items():
            if node.state == GcsNodeInfo.ALIVE and node.node_manager_address == address:
                return str(node_id.hex())
        raise RuntimeError(f"no living Ray node has the address {address}")

    def drain(self, deadline_ms: int) -> None:
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        reason = DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
        node_id = self._node_id or self._this_node()
        accepted, refusal = self._client.drain_node(node_id, reason, "the pod is being deleted", deadline_ms)
        if not accepted:
            raise RuntimeError(refusal)

    def answers(self) -> bool:
        try:
            self._client.get_all_node_info(timeout=5)
        except Exception:
            return False
        return True


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deployments.command.drain", description=__doc__)
    parser.add_argument("--seconds", type=float, required=True, help="wait at most so long")
    parser.add_argument("--node-id", help="Ray node to drain (default: the one at this machine's address)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    print(f"drain: {drain(RayCluster(options.node_id), local_replicas, options.seconds)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
