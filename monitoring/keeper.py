"""One exporter a node, whoever starts first and whatever dies: kept by the node's recording processes.

The exporter is a process of its own, so that a scrape never takes the interpreter from a replica. Whoever holds the
lock on `exporter.lock` in the node's directory is it. Every recording process waits for that lock in a thread that
sleeps in the kernel; the kernel hands it to one of them when the exporter has died, and that one starts the next
exporter, which inherits the locked file. So there is never a second one, and no one polls.
"""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

logger = logging.getLogger(__name__)

LOCK = "exporter.lock"
SHORTEST_LIFE_S = 10.0
"""An exporter that ends sooner could not start; the next try waits, longer each time."""

LONGEST_WAIT_S = 60.0
LINGER_S = 600.0
"""How long an exporter shows the counts of a node on which no process records any more, say while a model loads."""


def keep_exporter(
    directory: Path,
    host: str,
    port: int,
    targets: Path | None = None,
    others: Mapping[str, str] = MappingProxyType({}),
    linger_s: float = LINGER_S,
    node_pid: int | None = None,
) -> threading.Thread:
    """See to it, for as long as this process lives, that `directory` has an exporter at host:port (0: a free one).

    targets: where the exporter announces its address, for Prometheus' file_sd, and with it `others`, job -> address,
    for as long as it runs. node_pid: the process with which the node ends, and its exporter too. Returns the thread
    that watches.
    """
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "monitoring.exporter", "--directory", os.fspath(directory)]
    command += ["--host", host, "--port", str(port), "--linger-s", str(linger_s)]
    if node_pid is not None:
        command += ["--node-pid", str(node_pid)]
    if targets is not None:
        command += ["--targets", os.fspath(targets)]
    for job, address in others.items():
        command += ["--also", f"{job}={address}"]
    thread = threading.Thread(target=_keep, args=(directory / LOCK, command), name="metrics-exporter", daemon=True)
    thread.start()
    return thread


def _keep(lock: Path, command: list[str]) -> None:
    wait = 1.0
    while True:
        try:
            file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return  # the directory was removed: the server is being stopped
        started_at = time.monotonic()
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not lock.exists():
                return
            started_at = time.monotonic()
            process = _start(command, file)
        finally:
            os.close(file)  # the exporter's copy keeps the lock
        code = process.wait()
        # Below 0 it is the shell that was killed, and the exporter may live: the lock tells.
        if code > 0 and time.monotonic() - started_at < SHORTEST_LIFE_S:
            logger.error("the metrics exporter ended with code %d; trying again in %g s", code, wait)
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)
        else:
            wait = 1.0


def _start(command: list[str], lock: int) -> subprocess.Popen[bytes]:
    """The exporter below a shell, which ends with it and as it does.

    A worker of Ray that ends in order kills its children, with a signal that nobody can obey, but not theirs.
    """
    return subprocess.Popen(
        ["sh", "-c", '"$@" & wait $!', "sh", *command],
        pass_fds=[lock],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[1],
        start_new_session=True,
    )
