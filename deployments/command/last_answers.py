"""The end of a server of this machine waits for the answers that its proxies still have to write, and for nothing else.

Serve counts a request as ended when its replica has handed over the last piece, and shuts its proxies down without
asking them: one that lags behind would cut its streams. Nor can it tell a client that reads from one that only keeps
its connection, as every editor does: a process of HAProxy's that was replaced lives until the last of them has gone.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from deployments.cluster import haproxy
from deployments.cluster.haproxy_admin import requests, unsent_bytes
from deployments.command.front import haproxy_command
from deployments.command.processes import command_line, descendants
from deployments.command.ready import front
from deployments.settings import Settings

POLL_S = 0.2


def wait_for_answers(settings: Settings, seconds: float) -> bool:
    """Whether every answer is written; False after so long."""
    import ray

    deadline = time.monotonic() + seconds
    if haproxy_command(settings) is None:
        try:
            _drain_proxies(deadline)
        except ray.exceptions.GetTimeoutError:
            return False
        return True
    admin = haproxy.admin(ray.get_runtime_context().get_node_id())
    while not (written := _written(settings, admin)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return written


def _written(settings: Settings, admin: Path) -> bool:
    with contextlib.suppress(OSError):  # nobody is left to write
        if requests(admin):
            return False
    return not _running(settings) and not unsent_bytes(_processes())


def _running(settings: Settings) -> int:
    """Requests that the engines have; those of HAProxy's older processes, too, which answer no questions."""
    answer = front(settings).get("/health")
    with contextlib.suppress(ValueError, TypeError, AttributeError):  # there are no engines any more
        health = json.loads(answer[1]) if answer is not None else {}
        return int(health.get("running", 0) + health.get("waiting", 0))
    return 0


def _processes() -> list[int]:
    return [pid for pid in descendants() if command_line(pid).partition(" ")[0].endswith("/haproxy")]


def _drain_proxies(deadline: float) -> None:
    """Serve's own, which count what they have not written yet."""
    import ray
    from ray.serve.context import _get_global_client

    def answer(call: Any) -> Any:
        return ray.get(call, timeout=max(0.0, deadline - time.monotonic()))

    controller = _get_global_client()._controller
    proxies = list(answer(controller.get_proxies.remote()).values())
    answer([proxy.update_draining.remote(True) for proxy in proxies])
    while not all(answer([proxy.is_drained.remote() for proxy in proxies])):
        time.sleep(POLL_S)
