"""sandlock: Landlock and seccomp, which need no namespaces: where containers forbid those. PyPI's `sandlock`.

https://github.com/multikernel/sandlock. Needs Linux 6.12. What it does not hide: that other processes exist.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence

from benchmarks.quality.sandbox import landlock_launcher
from benchmarks.quality.sandbox.judge import Room


class Landlock:
    name = "sandlock"
    user: int | None = None
    counts_processes = True

    def command(self, inside: Sequence[str], room: Room) -> list[str]:
        policy = {
            "readable": [str(path) for path in room.readable],
            "scratch": str(room.scratch),
            "scratch_bytes": room.limits.scratch_bytes,
            "processes": room.limits.processes,
        }
        return [sys.executable, str(landlock_launcher.__file__), json.dumps(policy), *inside]


def find() -> Landlock | None:
    return Landlock() if importlib.util.find_spec("sandlock") else None
