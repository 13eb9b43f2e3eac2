"""What a run of the tests must not leave on the machine: processes, and the private directories of its servers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from pathlib import Path

from deployments.cluster.temporary import PREFIX, short_parent
from deployments.command.processes import descendants
from tests.support.processes import command_line, kill
from tests.support.waiting import wait_until

_MARK = "TESTS_OF_STARCODER"
"""Processes inherit this variable, also those whose parent has ended."""

_HELPER = "multiprocessing.resource_tracker"
"""Python's own, which ends with its parent, as does the server of forks."""


@contextmanager
def nothing_left() -> Iterator[None]:
    """What the block starts has ended some time after it. Else raises AssertionError and ends it."""
    os.environ[_MARK] = str(os.getpid())
    yield
    try:
        wait_until(lambda: not processes(), lambda: f"the tests leave processes: {processes()}", 60)
    finally:
        for pid in processes():
            kill(pid)
    assert not directories(), "the tests leave directories"


def processes() -> dict[int, str]:
    """Command lines of living processes that this one started, at whatever distance."""
    mark = f"{_MARK}={os.getpid()}".encode()
    pids = set(descendants())
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in entry.read_bytes().split(b"\0"):
                pids.add(int(entry.parent.name))
    lines = {pid: command_line(pid) for pid in pids - {os.getpid(), forkserver._forkserver._forkserver_pid}}
    return {pid: line for pid, line in lines.items() if line and _HELPER not in line}


_owners: set[int] = set()


def watch_directories(owners: Iterable[int]) -> None:
    """Private directories of these processes are this run's."""
    _owners.update(owners)


def directories() -> list[Path]:
    return directories_of(_owners)


def directories_of(pids: Iterable[int]) -> list[Path]:
    """Private ones of these processes."""
    return [path for pid in pids for path in short_parent().glob(f"{PREFIX}{pid}-*")]
