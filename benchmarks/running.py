"""A server as a process in a directory of its own, and its end with everything below it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deployments.command.processes import KILLED_S, descendants

STOP_S = 90.0
LEAVE_S = 5.0
POLL_S = 0.05


@dataclass(frozen=True)
class Running:
    """pid: of its first process. log: what it prints. ready_seconds: until it was ready."""

    pid: int
    log: Path
    ready_seconds: float


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], ready: Callable[[Path], bool], *, start_s: float
) -> Iterator[Running]:
    """Start it and wait until `ready`, which is given its log. Raises RuntimeError with what it printed where it
    does not start. On every path it ends, by signals to its processes alone, and its directory goes.
    """
    with tempfile.TemporaryDirectory(prefix="starcoder-stack-") as directory, _obeying():
        log = Path(directory) / "log"
        started = time.monotonic()
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=directory, stdout=file, stderr=file, start_new_session=True, env=dict(environment)
            )
        below: dict[int, str] = {}
        try:
            _wait(process, log, ready, started + start_s, below)
            yield Running(process.pid, log, time.monotonic() - started)
        finally:
            _end(process, below)


def _wait(
    process: subprocess.Popen[bytes],
    log: Path,
    ready: Callable[[Path], bool],
    deadline: float,
    below: dict[int, str],
) -> None:
    """below: gets the processes that are seen below it, for one that dies tells no more whose they were."""
    while not ready(log):
        below |= _born(descendants(process.pid))
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server does not start:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(POLL_S)


def _end(process: subprocess.Popen[bytes], below: dict[int, str]) -> None:
    """SIGTERM to the first process; what is left when that has ended, or has not in time, is killed."""
    below |= _born(descendants(process.pid))
    process.terminate()
    deadline = time.monotonic() + STOP_S
    while process.poll() is None and time.monotonic() < deadline:
        below |= _born(descendants(process.pid))
        time.sleep(POLL_S)
    process.kill()
    process.wait()
    left = _leave(below, LEAVE_S)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # those of its session that came last
    _leave(left, KILLED_S)


def _leave(born: Mapping[int, str], patience_s: float) -> dict[int, str]:
    """Those that have not gone in time."""
    deadline = time.monotonic() + patience_s
    while (left := _living(born)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return left


def _born(pids: Sequence[int]) -> dict[int, str]:
    """When each began, for its id may be given anew; those that are gone or zombies are left out."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError, IndexError):
            # the name in parentheses may hold anything
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX":
                found[pid] = fields[19]
    return found


def _living(born: Mapping[int, str]) -> dict[int, str]:
    now = _born(list(born))
    return {pid: at for pid, at in born.items() if now.get(pid) == at}


@contextlib.contextmanager
def _obeying() -> Iterator[None]:
    """Let SIGTERM end what was started, too."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
