"""Real source files, and the part of each that is typed again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".py", ".java", ".js", ".ts", ".go", ".rs", ".c", ".cc", ".cpp", ".h", ".rb", ".kt", ".cs")
STANDARD_LIBRARY = ("bisect", "contextlib", "fnmatch", "graphlib", "heapq", "queue", "sched", "shlex", "textwrap")
"""Modules that are there with every Python, of a few hundred lines each."""


@dataclass(frozen=True)
class Edit:
    """A file whose middle is missing: `typed` is what the person writes between `before` and `after`."""

    name: str
    before: str
    typed: str
    after: str


def source_files(paths: Sequence[Path]) -> list[Path]:
    """Files by name, folders searched for source files; without any, a part of Python's standard library.

    Raises ValueError where nothing is found.
    """
    if not paths:
        library = Path(random.__file__).parent
        return [library / f"{name}.py" for name in STANDARD_LIBRARY]
    found: list[Path] = []
    for path in paths:
        found += sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES) if path.is_dir() else [path]
    if not found:
        raise ValueError(f"no source files in {', '.join(map(str, paths))}")
    return found


def choose_edit(name: str, text: str, lines: int, seed: int | str) -> Edit:
    """Whole lines of the text, about `lines` of them and not in its first quarter, are to be typed again."""
    parts = text.splitlines(keepends=True)
    generator = random.Random(seed)
    count = max(1, min(lines, len(parts) // 2))
    first = generator.randint(len(parts) // 4, max(len(parts) // 4, len(parts) - count))
    before, typed, after = (
        "".join(piece) for piece in (parts[:first], parts[first : first + count], parts[first + count :])
    )
    # the line break of the last line is there already: the cursor stands in an empty line
    return Edit(name, before, typed.removesuffix("\n"), "\n" + after if typed.endswith("\n") else after)
