"""How much main memory this process may still take: what is free on the machine, and under the limit of its container.

A container sees the whole machine's memory in /proc; its limit stands in its control group, or in one around that
(Linux' Documentation/admin-guide/cgroup-v2.rst, and cgroup-v1/memory.rst).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class _Files(NamedTuple):
    """Of a control group: its limit, what is taken, and which line of memory.stat says what can be had back at once."""

    limit: str
    used: str
    cached: str


_V2 = _Files("memory.max", "memory.current", "inactive_file")
_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def below_limits(free: int, groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes of those that are free on the machine. groups: where control groups are mounted. own: the file that says
    which are this process's."""
    return min([free, *_left(groups, own)])


def _left(groups: Path, own: Path) -> Iterator[int]:
    """Bytes below each limit that there is."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return  # no Linux
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, files = groups, _V2
        elif "memory" in controllers.split(","):
            root, files = groups / "memory", _V1
        else:
            continue
        group = root / path.lstrip("/")
        # without a namespace of its own, a container is told a path that is the machine's: what there is of it counts
        for each in (group, *group.parents):
            if (left := _left_in(each, files)) is not None:
                yield left
            if each == root:
                break


def _left_in(group: Path, files: _Files) -> int | None:
    """None where the group has no limit, or is not there."""
    try:
        limit, used = (int((group / name).read_text()) for name in (files.limit, files.used))
        stat = dict(line.split(" ", 1) for line in (group / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(stat.get(files.cached, 0)))
    except (OSError, ValueError):  # "max" is no number
        return None
