"""Which tests are to notice a fault in which files: those of the same folder below `tests/`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("model", "deployments", "monitoring")

LEFT_OUT = (
    "model/kernels/",  # Triton's and C's: compared with a reference elsewhere
    "model/pico/",  # made once, by training
    "deployments/playground/",
    "deployments/api/pages/",
)

ELSEWHERE = {
    "model": ("tests/model/test_*.py", "tests/model/process/test_*.py"),
    "model/scheduling": (
        "tests/model/scheduling",
        *("tests/model/test_engine.py", "tests/model/test_async_*.py", "tests/model/test_not_finite.py"),
    ),
    "model/backends": ("tests/model/backends/test_*.py", "tests/model/test_*.py"),
    "deployments": (  # those that start no engine
        *("tests/deployments/test_[ceors]*.py", "tests/deployments/test_app.py", "tests/deployments/test_protocol.py"),
        *("tests/deployments/api/test_errors.py", "tests/deployments/api/test_operations.py"),
    ),
    "deployments/api": ("tests/deployments/api/test_*.py",),
    "deployments/api/common": ("tests/deployments/api/common", "tests/deployments/api/test_*.py"),
    **{
        f"deployments/api/{room}": tuple(
            f"tests/deployments/api/test_{tests}.py" for tests in (f"{room}*", "described", "line_ends")
        )
        for room in ("llamacpp", "tgi")
    },
    "deployments/api/reference": ("tests/deployments/api/test_reference*.py",),
    # without the runbook's: mutmut's code in a process that runs elsewhere does not find its settings
    "deployments/command": (
        *("tests/deployments/command/test_[!r]*.py", "tests/deployments/command/test_ray_*.py"),
        *("tests/model/checkpoint/test_hub.py", "tests/model/checkpoint/test_memory.py"),
    ),
    "deployments/command/teams": ("tests/deployments/command/teams", "tests/deployments/command/test_reference.py"),
    "deployments/command/verify": (
        "tests/deployments/command/verify",
        *("tests/deployments/command/test_cli.py", "tests/deployments/command/test_reference.py"),
    ),
    "deployments/teams/database": ("tests/deployments/teams/test_store*.py", "tests/deployments/teams/test_expiry.py"),
    **{
        f"deployments/teams/database/{room}": tuple(
            f"tests/deployments/teams/test_store_{tests}.py" for tests in ("database", "audit")
        )
        for room in ("migrations", "migrations/versions")
    },
    "monitoring": ("tests/monitoring/test_*.py", "tests/deployments/command/test_reference.py"),
}
"""Rooms whose tests are not, or not only, below the folder of the same name: patterns."""

COUNTING = ("*test_linear_work.py", "*test_planning_time.py", "*test_held.py")
"""Tests that count calls, or what time they take; where faults are planted, each function has a step more before it."""


class NoSuchRoomError(ValueError):
    """There is no such file or folder, or nothing in it is planted with faults."""


@dataclass(frozen=True)
class Room:
    """sources: files, from the root. tests: files or folders, from the root."""

    name: str
    sources: tuple[str, ...]
    tests: tuple[str, ...]


def rooms(root: Path = ROOT) -> list[Room]:
    """All of them: each folder with code, without the folders in it."""
    folders = {path.parent.relative_to(root).as_posix() for name in PACKAGES for path in (root / name).rglob("*.py")}
    return [room for folder in sorted(folders) if (room := _room(root, folder, _sources(root, folder)))]


def room_of(name: str, root: Path = ROOT) -> Room:
    """A folder's, or that of one file alone. Raises NoSuchRoomError."""
    path = root / name
    if path.is_file() and not is_left_out(name):
        found = _room(root, path.parent.relative_to(root).as_posix(), (name,))
    elif path.is_dir():
        found = _room(root, name.rstrip("/"), _sources(root, name.rstrip("/")))
    else:
        found = None
    if found is None:
        raise NoSuchRoomError(f"{name} is no file or folder that is planted with faults")
    return found


def _room(root: Path, folder: str, sources: tuple[str, ...]) -> Room | None:
    return Room(folder, sources, _tests(root, folder)) if sources else None


def _sources(root: Path, folder: str) -> tuple[str, ...]:
    names = (path.relative_to(root).as_posix() for path in sorted((root / folder).glob("*.py")))
    return tuple(name for name in names if not is_left_out(name))


def is_left_out(name: str) -> bool:
    """Whether no fault is planted in a file."""
    return name.startswith(LEFT_OUT) or name.endswith("__init__.py")


def _tests(root: Path, folder: str) -> tuple[str, ...]:
    """Without any of its own, those of the folder around it."""
    if folder in ELSEWHERE:
        return tuple(_names(root, (path for pattern in ELSEWHERE[folder] for path in sorted(root.glob(pattern)))))
    at = root / "tests" / folder
    while not at.is_dir():
        at = at.parent
    return tuple(_names(root, [at]))


def _names(root: Path, paths: Iterable[Path]) -> Iterable[str]:
    names = (path.relative_to(root).as_posix() for path in paths)
    return (name for name in names if not any(fnmatch(name, pattern) for pattern in COUNTING))
