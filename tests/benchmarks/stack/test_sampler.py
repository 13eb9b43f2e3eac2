"""Which functions a process is found in, while it works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.stack.sampler import Profile, Samples, stacks
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[3]
WORK = """
import threading
def busy():
    while True:
        sum(range(1000))
threading.Thread(target=busy, daemon=True, name="busy").start()
input()
"""


def test_what_faulthandler_writes() -> None:
    written = """Stack (most recent call first):
  File "/a/b/c.py", line 3 in inner
  File "<string>", line 1 in <module>
Stack (most recent call first):
  File "/a/b/c.py", line 4 in inner
  File "/a/b/c.py", line 9 in inner
  File "d.py", line 1 in outer
Stack (most recent call first):
  File "/a/b"""
    assert list(stacks(written)) == [
        ("inner b/c.py", "<module> <string>"),
        ("inner b/c.py", "inner b/c.py", "outer d.py"),
    ]
    samples = Samples(written, {})
    assert samples.count == 2
    assert samples.cumulative() == {"inner b/c.py": 2, "<module> <string>": 1, "outer d.py": 1}
    assert samples.own() == {"inner b/c.py": 2}


@pytest.mark.skipif(sys.platform != "linux", reason="reads threads from /proc")
def test_a_process_that_works_is_sampled(tmp_path: Path) -> None:
    profile = Profile(tmp_path)
    path = os.pathsep.join([profile.environment["PYTHONPATH"], str(ROOT)])
    environment = {**os.environ, **profile.environment, "PYTHONPATH": path}
    with subprocess.Popen([sys.executable, "-c", WORK], stdin=subprocess.PIPE, env=environment) as process:
        written = tmp_path / f"{process.pid}.stacks"
        with profile.taking():
            wait_until(lambda: written.exists() and written.read_text().count("Stack") > 20)
        wait_until(lambda: profile.read(process.pid))
        samples = profile.read(process.pid)
        process.communicate(b"\n")
    assert samples is not None
    assert samples.cumulative()["busy <string>"] > 10
    assert sum(samples.threads.values()) > 0.02
