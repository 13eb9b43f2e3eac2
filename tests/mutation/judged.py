"""Faults that no test notices, and that somebody has looked at: why that is right."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("judged.toml")


@dataclass(frozen=True)
class Change:
    """What is planted. function: with its class. before, after: the lines that differ, stripped."""

    file: str
    function: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.file}: {self.function}\n    - {self.before}\n    + {self.after}"


@dataclass(frozen=True)
class Judged:
    """reason: why no test need notice it."""

    change: Change
    reason: str


def read(file: Path = FILE) -> list[Judged]:
    """Raises ValueError where something is judged twice or without a reason."""
    found = [
        Judged(Change(one["file"], one["function"], one["before"], one["after"]), one["reason"])
        for one in tomllib.loads(file.read_text()).get("judged", [])
    ]
    if len({one.change for one in found}) < len(found) or not all(one.reason.strip() for one in found):
        raise ValueError(f"{file.name}: something is judged twice, or without a reason")
    return found


def stale(judged: Collection[Judged], root: Path) -> list[Change]:
    """Those whose lines are not in the code any more."""
    return [one.change for one in judged if not _is_there(root / one.change.file, one.change.before)]


def _is_there(file: Path, before: str) -> bool:
    if not file.is_file():
        return False
    lines = {line.strip() for line in file.read_text().splitlines()}
    return all(line.strip() in lines for line in before.splitlines())
