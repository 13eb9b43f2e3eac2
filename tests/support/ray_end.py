"""One of Ray's own servers dies, and the whole server with it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

import httpx

from tests.support.cluster import LONG, Cluster
from tests.support.processes import command_line, kill
from tests.support.waiting import PATIENCE_S

NOTICED_S = 50.0
"""The command looks every second; ending Ray and what it started takes the rest, on a busy machine. Ray's own processes
go on for 60 s without a GCS."""


def end_with_ray(server: Cluster, victim: str, headers: Mapping[str, str] | None = None) -> float:
    """Kill Ray's program of this name under an open stream; seconds until the command has ended.

    Asserts that the stream ends with an error event, the command with a reason, and that nothing is left.
    """
    tree = server.tree()
    [pid] = [pid for pid in tree if command_line(pid).split("\0")[0].split(" ")[0].endswith(f"/{victim}")]
    request = {"prompt": "def f(x):", "stream": True, **LONG}
    address = f"{server.url}/v1/completions"
    with httpx.stream("POST", address, json=request, headers=headers, timeout=PATIENCE_S) as stream:
        lines = stream.iter_lines()
        next(lines)
        killed_at = time.monotonic()
        kill(pid)
        *_, last = (line for line in lines if line)
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "node_lost"
    assert server.process.wait(NOTICED_S) == 1
    took = time.monotonic() - killed_at
    server.leaves_nothing(tree)
    # Ray itself may print tracebacks of calls that its end has interrupted
    assert f"Ray's {victim} ended" in server.text()
    return took
