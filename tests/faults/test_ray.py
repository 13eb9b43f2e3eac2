"""Ray's own servers die, or a second command comes to a cluster that has its application already."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.faults.test_shutdown import directories_of
from tests.support.cluster import Cluster
from tests.support.processes import command_line, is_gone, kill
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

NOTICED_S = 30.0
"""The command looks every second; ending Ray and what it started takes the rest, on a busy machine."""


@pytest.mark.fault(
    "Ray's raylet or GCS is killed",
    "streams end with an error event (`node_lost`); `starcoder serve` exits with 1 and leaves nothing",
    until="the command's end",
)
@pytest.mark.parametrize("victim", ["raylet/raylet", "gcs_server"])
def test_the_command_ends_when_ray_has_ended(
    victim: str, tiny_checkpoint: Path, tmp_path: Path, recovered: Callable[[float], None]
) -> None:
    server = Cluster(tiny_checkpoint, tmp_path / "serve.txt", "--dtype", "float32", "--num-threads", "1")
    try:
        server.start()
        tree = [server.process.pid, *server.pids()]
        [pid] = [pid for pid in tree if command_line(pid).split("\0")[0].split(" ")[0].endswith(victim)]
        request = {"prompt": "def f(x):", "max_tokens": 1900, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=request, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            killed_at = time.monotonic()
            kill(pid)
            *_, last = (line for line in lines if line)
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "node_lost"
        assert server.process.wait(NOTICED_S) == 1
        took = time.monotonic() - killed_at
    finally:
        server.stop()
    wait_until(lambda: all(is_gone(pid) for pid in tree), lambda: f"left: {[p for p in tree if not is_gone(p)]}")
    assert directories_of(tree) == []
    # Ray itself may print tracebacks of calls that its end has interrupted
    assert f"Ray's {victim.rpartition('/')[2]} ended" in server.text()
    recovered(took)


@pytest.mark.fault(
    "a second `starcoder serve` comes to the cluster",
    "nothing: it is refused, and the first goes on",
    until="the second command's end",
)
def test_a_second_command_leaves_the_first_ones_application_alone(
    cluster: Cluster, tiny_checkpoint: Path, tmp_path: Path, recovered: Callable[[float], None]
) -> None:
    started_with = "\n".join(map(command_line, cluster.pids("raylet")))
    [address, *_] = re.findall(r"gcs[-_]address=([\w.:]+)", started_with)
    # a cluster on loopback only is found there by who is told so, as the first command tells itself
    environment = {"RAY_ADDRESS": address, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    second = Cluster(tiny_checkpoint, tmp_path / "second.txt", **environment)
    try:
        launched_at = time.monotonic()
        second.launch()
        assert second.process.wait(120) == 1
        recovered(time.monotonic() - launched_at)
    finally:
        second.stop()
    assert "has an application 'starcoder' already" in second.text()
    assert "Traceback" not in second.text()
    assert cluster.health() is not None
    request = {"prompt": "def f(x):", "max_tokens": 3}
    assert httpx.post(f"{cluster.url}/v1/completions", json=request, timeout=60).status_code == 200
