"""A process hears of the end of its raylet, and of nobody else's."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.cluster import node_watch
from deployments.cluster.node_watch import ENDS_WITH_GCS
from tests.support.processes import kill
from tests.support.product_files import ROOT
from tests.support.waiting import eventually, settle, wait_until

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


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Children of this one, which do nothing."""
    started = [subprocess.Popen(["sleep", "600"]) for _ in range(3)]
    yield started
    for process in started:
        process.kill()
        process.wait()


class Node:
    """What this process takes for its node: names of other processes, the first of which is its parent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, names: dict[int, str]) -> None:
        parent = next(iter(names))
        monkeypatch.delenv(ENDS_WITH_GCS, raising=False)
        monkeypatch.setattr(node_watch.os, "getppid", lambda: parent)
        monkeypatch.setattr(node_watch, "_name", lambda pid: names.get(pid, ""))
        self.heard: list[None] = []

    def watch(self) -> bool:
        return node_watch.on_node_end(lambda: self.heard.append(None))


@pytest.mark.parametrize(
    ("told", "ends", "heard"), [(False, 0, True), (True, 0, True), (True, 1, True), (False, 1, False), (True, 2, False)]
)
async def test_the_end_of_either_is_heard_once_and_nothing_is_left_open(
    processes: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    told: bool,
    ends: int,
    heard: bool,
) -> None:
    raylet, gcs, _ = (process.pid for process in processes)
    node = Node(monkeypatch, {raylet: "raylet", gcs: "gcs_server"})
    if told:
        monkeypatch.setenv(ENDS_WITH_GCS, "1")
    assert (node_watch.raylet(), node_watch.gcs(raylet)) == (raylet, gcs if told else None)
    opened: list[int] = []
    pidfd_open = os.pidfd_open
    monkeypatch.setattr(node_watch.os, "pidfd_open", lambda pid: opened.append(pidfd_open(pid)) or opened[-1])
    assert node.watch()
    assert len(opened) == 1 + told
    processes[ends].kill()
    processes[ends].wait()
    if not heard:
        await settle()
        assert node.heard == []
        processes[0].kill()
    await eventually(lambda: node.heard)
    processes[0].kill()
    processes[0].wait()
    await settle()
    assert node.heard == [None]
    for file in opened:
        assert not asyncio.get_running_loop().remove_reader(file)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(file)


async def test_where_there_is_no_raylet_or_the_system_cannot_tell_nothing_is_heard(
    processes: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = processes[0].pid
    assert not Node(monkeypatch, {pid: "sh"}).watch()
    assert node_watch.raylet() is None
    node = Node(monkeypatch, {pid: "raylet"})
    monkeypatch.delattr(node_watch.os, "pidfd_open")
    assert not node.watch()


async def test_the_gcs_is_the_one_that_was_started_beside_this_raylet(
    processes: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    raylet, other, ours = (process.pid for process in processes)
    Node(monkeypatch, {raylet: "raylet", other: "gcs_server", ours: "gcs_server"})
    monkeypatch.setenv(ENDS_WITH_GCS, "1")
    monkeypatch.setattr(node_watch, "_parent", {raylet: 7, other: 8, ours: 7}.get)
    assert node_watch.gcs(raylet) == ours
    monkeypatch.setattr(node_watch, "_parent", {raylet: 7, other: 8, ours: 8}.get)
    assert node_watch.gcs(raylet) is None


def test_a_process_has_a_name_and_a_parent_while_it_is_there(tmp_path: Path) -> None:
    nobody = 2**22 + 1
    script = tmp_path / "a) b (c"
    script.write_text("#!/bin/sh\nread line\n")
    script.chmod(0o755)
    with subprocess.Popen([script], stdin=subprocess.PIPE) as process:
        wait_until(lambda: node_watch._name(process.pid) == "a) b (c")
        assert node_watch._parent(process.pid) == os.getpid()
        process.communicate()
    assert (node_watch._name(nobody), node_watch._parent(nobody)) == ("", None)
