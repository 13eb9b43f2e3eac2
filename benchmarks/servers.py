"""The servers that are measured, each started as a process of its own on a free port, and ended."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.running import running
from deployments.command.ports import free_port

ROOT = Path(__file__).parents[1]
START_S = 240.0
READY = "Ready after"

# Every request that comes is taken; the queue is not what is measured.
ROOM = ("--max-num-seqs", "1024", "--max-queued-requests", "2048")


@dataclass(frozen=True)
class Server:
    """pid: of its first process. parts: what its processes are called, where not by their command lines."""

    name: str
    port: int
    pid: int
    log: Path

    def named(self) -> dict[int, str]:
        return {self.pid: "floor"} if self.name == FLOOR else {}


SERVE = ("deployments.command.cli", "serve")

PRODUCT, BASELINE, FLOOR, REAL = "product", "baseline", "floor", "real"

NO_KEYS = {"STARCODER_TEAMS__DATABASE": "sqlite+aiosqlite:////dev/null/none.sqlite"}
"""Keys of this machine's user, for a server of their own, close no server that is measured."""


@contextlib.contextmanager
def product(
    name: str, tree: Path = ROOT, options: Sequence[str] = (), environment: dict[str, str] | None = None
) -> Iterator[Server]:
    """The server of a checkout, before a table. Raises RuntimeError with what it printed where it does not start."""
    port = free_port()
    command = ["benchmarks.stack.serve", "--model", "pico", "--device", "cpu", "--port", str(port), *ROOM, *options]
    own = NO_KEYS if tree == ROOT else {}  # an older checkout knows no such setting
    with _running(name, port, command, tree, own | (environment or {})) as server:
        yield server


@contextlib.contextmanager
def real(
    options: Sequence[str], environment: dict[str, str] | None = None, command: Sequence[str] = SERVE
) -> Iterator[Server]:
    """This checkout's server, with an engine. Raises like `product`.

    command: a module that takes the same options, and what stands before them.
    """
    port = free_port()
    command = [*command, "--port", str(port), *options]
    with _running(REAL, port, command, ROOT, NO_KEYS | (environment or {})) as server:
        yield server


@contextlib.contextmanager
def floor(recorded: Path) -> Iterator[Server]:
    port = free_port()
    command = ["benchmarks.stack.floor", "--port", str(port), "--recorded", str(recorded)]
    with _running(FLOOR, port, command, ROOT, {}) as server:
        yield server


@contextlib.contextmanager
def _running(name: str, port: int, command: Sequence[str], tree: Path, environment: dict[str, str]) -> Iterator[Server]:
    path = os.pathsep.join([*filter(None, [environment.get("PYTHONPATH")]), str(tree)])
    variables = {**alone(), **environment, "PYTHONPATH": path}
    with running([sys.executable, "-m", *command], variables, _says_ready, start_s=START_S) as process:
        yield Server(name, port, process.pid, process.log)


def alone() -> dict[str, str]:
    """The environment, but for a cluster that a server would join."""
    return {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}


def _says_ready(log: Path) -> bool:
    return READY in log.read_text(errors="replace")
