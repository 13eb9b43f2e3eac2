"""A process hears of the end of its raylet, and of nobody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
