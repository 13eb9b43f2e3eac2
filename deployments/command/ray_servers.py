"""The servers of Ray that this process has started."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable

from deployments.command.processes import command_line, descendants, kill_all

STARTS = 3


def start_node(begin: Callable[[], object]) -> None:
    """Start a node of Ray. Raises what `begin` does.

    Ray gives its servers half a minute, which is too little where the disk is cold or the machine busy: what has been
    started by then is ended, and they start once more, with what they load in memory.
    """
    before = set(descendants())
    for attempt in range(1, STARTS + 1):
        try:
            begin()
        except Exception as error:  # nothing more telling
            if "timed out during startup" not in str(error) or attempt == STARTS:
                raise
            kill_all(set(descendants()) - before)
        else:
            return


def dead_servers() -> list[str]:
    """Which of Ray's servers that this process started are gone, of those without which nothing runs.

    Its log monitor or autoscaler may have ended, too, and open streams can finish all the same.
    """
    if "ray" not in sys.modules:
        return []
    from ray._private.worker import _global_node

    dead = [] if _global_node is None else [name for name, _ in _global_node.dead_processes()]
    return [name for name in dead if name in ("gcs_server", "raylet")]


def end_streams() -> None:
    """End the raylet as well, and wait for the end of its children: ingresses, which then tell their clients.

    See `deployments.cluster.node_watch`.
    """
    from ray._private.worker import _global_node

    if _global_node is not None:
        with contextlib.suppress(Exception):
            _global_node.kill_raylet(check_alive=False)
        while any("ServeReplica" in command_line(pid) for pid in descendants()):
            time.sleep(0.05)


def shut_down() -> None:
    if "ray" in sys.modules:
        import ray

        with contextlib.suppress(Exception):
            ray.shutdown()
