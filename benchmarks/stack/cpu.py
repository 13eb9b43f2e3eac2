"""How much processor time each part of a server takes, to the nanosecond (Linux)."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from deployments.command.processes import command_line, descendants

PARTS = {
    "bin/haproxy": "haproxy",
    "ProxyActor": "proxy",
    ":ingress": "ingress",
    ":engine": "replica",
    "TableRank": "table engine",
    "RankProcess": "table engine",
    "ServeController": "controller",
    "raylet/raylet": "raylet",
    "gcs_server": "gcs",
}
"""What stands in the command line of a process, and what it is called here; the rest is `others`."""

OTHERS = "others"

_CPUCLOCK_SCHED = 2


def seconds_of(pid: int) -> float:
    """All threads of the process, those too that have ended. Raises OSError for one that is gone."""
    # what clock_getcpuclockid(3) makes of a process id
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def part_of(line: str) -> str:
    return next((name for mark, name in PARTS.items() if mark in line), OTHERS)


def machine_seconds() -> float:
    """Processor time of everything on this machine, whoever it belongs to; to a hundredth of a second."""
    user, nice, system, _, _, interrupts, soft = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:8])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


class Meter:
    """Processor time of the processes below some roots, and of others by name.

    named: what some processes are called, by their ids; their descendants are not looked for.
    """

    def __init__(self, roots: Sequence[int], named: dict[int, str]) -> None:
        self._names = {pid: part_of(command_line(pid)) for root in roots for pid in [root, *descendants(root)]}
        self._names |= named
        self._machine_began, self._began = machine_seconds(), self._read()

    def _read(self) -> dict[int, float]:
        found = {}
        for pid in self._names:
            with contextlib.suppress(OSError):
                found[pid] = seconds_of(pid)
        return found

    def elapsed(self) -> dict[str, float]:
        """Seconds by part since it was made."""
        found: Counter[str] = Counter()
        for pid, seconds in self._read().items():
            found[self._names[pid]] += seconds - self._began[pid]  # type: ignore[assignment]
        return dict(found)

    def strangers(self) -> float:
        """Seconds since it was made of processes that are no part of this."""
        return max(0.0, machine_seconds() - self._machine_began - sum(self.elapsed().values()))
