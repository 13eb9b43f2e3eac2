"""`starcoder serve` ends before it is ready: nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.leftovers import directories_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults


@pytest.mark.fault(
    "Ctrl-C, while it starts",
    "nothing; the command exits with 0 and leaves nothing",
    until="the command's end",
)
def test_ctrl_c_while_it_starts_leaves_nothing(
    tiny_checkpoint: Path, tmp_path: Path, recovered: Callable[[float], None]
) -> None:
    """A terminal sends SIGINT to the whole process group, so to Ray's servers too."""
    server = Cluster(tiny_checkpoint, tmp_path / "serve.txt")
    try:
        server.launch()
        wait_until(lambda: "starting Serve: " in server.text(), server.text)
        tree = server.tree()
        assert len(tree) > 3
        told_at = time.monotonic()
        os.killpg(server.process.pid, signal.SIGINT)
        assert server.process.wait(120) == 0
        recovered(time.monotonic() - told_at)
    finally:
        server.stop()
    server.leaves_nothing(tree)
    assert "Traceback" not in server.text()


@pytest.mark.fault(
    "an engine cannot start: its cache is too small",
    "nothing; the command says why, exits with 1 and leaves nothing",
)
def test_a_start_that_fails_leaves_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The cache cannot hold one sequence: known only once a rank has looked at its memory."""
    server = Cluster(tiny_checkpoint, tmp_path / "serve.txt", "--num-kv-blocks", "2", "--start-timeout-s", "120")
    try:
        with pytest.raises(AssertionError):
            server.start()
        assert server.process.returncode == 1
    finally:
        server.stop()
    (failed,) = server.lines("server.failed")
    assert failed["message"].startswith("the cache holds 2 blocks")
    assert len(server.lines("engine.starting")) == 1  # another attempt would be refused, too
    assert all(json.loads(line)["time"] for line in server.text().splitlines())
    assert "Traceback" not in server.text()
    assert directories_of([server.process.pid]) == []
