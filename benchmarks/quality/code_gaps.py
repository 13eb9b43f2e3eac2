"""Gaps in source files, as editors meet them: the rest of a line, from its start or its middle, and a block's lines."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deployments.stop_rules.languages import LANGUAGES, language_of

LONGEST_BLOCK_LINES = 12
_TRIES = 200


@dataclass(frozen=True)
class Gap:
    """What is missing between `prefix` and `suffix` in a file."""

    name: str
    prefix: str
    missing: str
    suffix: str


@dataclass(frozen=True)
class SourceText:
    name: str
    text: str


@dataclass(frozen=True)
class Around:
    """Characters that are kept before a gap, from the beginning of a line where there is one, and behind it."""

    before: int
    behind: int


NEAR = Around(1200, 500)


@dataclass(frozen=True)
class Hole:
    """From a column of line `first` to the end of line `last`, counted from 0."""

    first: int
    column: int
    last: int


Finder = Callable[[Sequence[str], int, str, random.Random], Hole | None]
"""Of a file's lines, the number of one, the file's name, and what draws: the hole there, if there is one."""


def line_hole(lines: Sequence[str], at: int, name: str, generator: random.Random) -> Hole | None:
    """A line, from behind its indentation."""
    return Hole(at, _indent(lines[at]), at)


def rest_of_line_hole(lines: Sequence[str], at: int, name: str, generator: random.Random) -> Hole | None:
    """A line from a character within it."""
    indent = _indent(lines[at])
    if len(lines[at]) < indent + 8:
        return None
    return Hole(at, generator.randrange(indent + 2, len(lines[at]) - 3), at)


def block_hole(lines: Sequence[str], at: int, name: str, generator: random.Random) -> Hole | None:
    """The lines after one that opens a block, which are indented more than it; the cursor stands at its end."""
    if not _opens(lines[at], name):
        return None
    last = at
    for number in range(at + 1, len(lines)):
        if lines[number].strip() and _indent(lines[number]) <= _indent(lines[at]):
            break
        last = number if lines[number].strip() else last
        if last - at > LONGEST_BLOCK_LINES:
            return None
    return Hole(at, len(lines[at]), last) if last - at >= 2 else None


KINDS: dict[str, Finder] = {"line": line_hole, "rest_of_line": rest_of_line_hole, "block": block_hole}


def draw_gaps(sources: Sequence[SourceText], kind: str, number: int, seed: int, around: Around = NEAR) -> list[Gap]:
    """Gaps of one kind from random files; raise ValueError where the files have none."""
    generator, found = random.Random(f"{kind} {seed}"), list[Gap]()
    for _ in range(number * _TRIES):
        source = generator.choice(sources)
        lines = source.text.split("\n")
        hole = KINDS[kind](lines, generator.randrange(len(lines)), source.name, generator)
        if hole is None:
            continue
        gap = cut(source.name, lines, hole, around)
        if worth_asking(gap.missing):
            found.append(gap)
            if len(found) == number:
                return found
    raise ValueError(f"the files have too few gaps of the kind {kind!r}")


def worth_asking(missing: str) -> bool:
    """Whether there is more in it than blanks and punctuation."""
    return any(char.isalnum() for char in missing)


def cut(name: str, lines: Sequence[str], hole: Hole, around: Around) -> Gap:
    """The file with that hole, and as much of it on both sides as is wanted."""
    before = "\n".join([*lines[: hole.first], lines[hole.first][: hole.column]])
    missing = "\n".join([lines[hole.first][hole.column :], *lines[hole.first + 1 : hole.last + 1]])
    after = "\n".join(["", *lines[hole.last + 1 :]])
    if len(before) > around.before:
        before = before[before.find("\n", len(before) - around.before) + 1 :] or before[-around.before :]
    return Gap(name, before, missing, after[: around.behind])


def _opens(line: str, name: str) -> bool:
    """Whether what is indented behind it is its block."""
    if line.rstrip().endswith((":", "{")):
        return True
    language = LANGUAGES[language_of(name) or "other"]
    words = "|".join(map(re.escape, language.openers))
    return language.blocks == "keywords" and re.match(rf"\s*(?:{words})\b", line) is not None


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
