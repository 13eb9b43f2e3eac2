"""The processes below this one, so that none of them outlives it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36

KILLED_S = 15.0
"""A killed process that holds much memory takes its time to end on a busy machine; its directory stays till then."""


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose own parent ends (Linux). Ray's workers stay findable that way."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def descendants(pid: int | None = None) -> list[int]:
    """Living processes below `pid` (this process), zombies left out. Empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    zombies = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name in parentheses may hold anything, a parenthesis too.
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
            child = int(entry.parent.name)
            children.setdefault(int(parent), []).append(child)
            if state in "ZX":
                zombies.add(child)
    found, todo = [], [pid or os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return [child for child in found if child not in zombies]


def command_line(pid: int) -> str:
    """Empty for a process that is gone or a zombie, and where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def end_descendants(patience_s: float = 3.0) -> list[int]:
    """SIGTERM, then after `patience_s` SIGKILL every process below this one, and reap. Returns those killed."""
    _signal(descendants(), signal.SIGTERM)
    if not (left := _wait_gone(patience_s)):
        return []
    _signal(left, signal.SIGKILL)
    _wait_gone(KILLED_S)
    return left


def kill_all(pids: Iterable[int]) -> None:
    """SIGKILL. Whoever is their parent reaps them."""
    _signal(pids, signal.SIGKILL)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _wait_gone(timeout_s: float) -> list[int]:
    deadline = time.monotonic() + timeout_s
    while True:
        _reap()
        left = descendants()
        if not left or time.monotonic() > deadline:
            _reap()
            return left
        time.sleep(0.05)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
