"""A process hears of the end of its raylet, and of nobody else's."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.cluster.node_watch import ENDS_WITH_GCS
from tests.support.processes import kill
from tests.support.product_files import ROOT

CHILD = """
import asyncio
from deployments.cluster.node_watch import on_node_end

async def main():
    ended = asyncio.Event()
    print(on_node_end(ended.set), flush=True)
    await asyncio.wait_for(ended.wait(), 60)
    print("ended", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("parent", ["raylet", "somebody"])
def test_the_end_of_the_raylet_is_heard(parent: str, tmp_path: Path) -> None:
    script = tmp_path / parent  # whose name is that of the process
    (tmp_path / "child.py").write_text(CHILD)
    script.write_text(f"#!/bin/sh\n{sys.executable} {tmp_path}/child.py &\nwait\n")
    script.chmod(0o755)
    with subprocess.Popen(
        [script], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == f"{parent == 'raylet'}\n"
            if parent == "raylet":
                kill(process.pid)
                assert process.stdout.readline() == "ended\n"
        finally:
            os.killpg(process.pid, 9)


@pytest.mark.parametrize("told", [True, False])
def test_the_end_of_the_gcs_is_heard_where_the_node_ends_with_it(told: bool, tmp_path: Path) -> None:
    """Of the one beside the raylet; Ray goes on without it, and elsewhere gets another."""
    (tmp_path / "child.py").write_text(CHILD)
    scripts = {"gcs_server": "sleep 600 & wait", "raylet": f"{sys.executable} {tmp_path}/child.py & wait"}
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    command = f"{tmp_path}/gcs_server & echo $!; {tmp_path}/raylet & wait"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **({ENDS_WITH_GCS: "1"} if told else {})}
    with subprocess.Popen(
        ["sh", "-c", command], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            server = int(process.stdout.readline())
            assert process.stdout.readline() == "True\n"
            kill(server)
            if told:
                assert process.stdout.readline() == "ended\n"
            else:
                poll = select.poll()
                poll.register(process.stdout, select.POLLIN)
                assert poll.poll(500) == []
        finally:
            os.killpg(process.pid, 9)
