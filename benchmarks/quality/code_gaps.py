"""Gaps in source files, as editors meet them: the rest of a line, from its start or its middle, and a block's lines."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PREFIX_CHARACTERS = 1200
SUFFIX_CHARACTERS = 500
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


def line_gap(source: SourceText, generator: random.Random) -> Gap | None:
    """A line, from behind its indentation."""
    lines = source.text.split("\n")
    at = generator.randrange(len(lines))
    return _cut(source, lines, at, _indent(lines[at]), at)


def rest_of_line_gap(source: SourceText, generator: random.Random) -> Gap | None:
    """A line from a character within it."""
    lines = source.text.split("\n")
    at = generator.randrange(len(lines))
    indent = _indent(lines[at])
    if len(lines[at]) < indent + 8:
        return None
    return _cut(source, lines, at, generator.randrange(indent + 2, len(lines[at]) - 3), at)


def block_gap(source: SourceText, generator: random.Random) -> Gap | None:
    """The lines after one that opens a block, which are indented more than it; the cursor stands at its end."""
    lines = source.text.split("\n")
    at = generator.randrange(len(lines))
    if not lines[at].rstrip().endswith((":", "{")):
        return None
    last = at
    for number in range(at + 1, len(lines)):
        if lines[number].strip() and _indent(lines[number]) <= _indent(lines[at]):
            break
        last = number if lines[number].strip() else last
    if not 2 <= last - at <= LONGEST_BLOCK_LINES:
        return None
    return _cut(source, lines, at, len(lines[at]), last)


KINDS: dict[str, Callable[[SourceText, random.Random], Gap | None]] = {
    "line": line_gap,
    "rest_of_line": rest_of_line_gap,
    "block": block_gap,
}


def draw_gaps(sources: Sequence[SourceText], kind: str, number: int, seed: int) -> list[Gap]:
    """Gaps of one kind from random files; raise ValueError where the files have none."""
    generator, found = random.Random(f"{kind} {seed}"), list[Gap]()
    for _ in range(number * _TRIES):
        gap = KINDS[kind](generator.choice(sources), generator)
        if gap is not None and any(char.isalnum() for char in gap.missing):
            found.append(gap)
            if len(found) == number:
                return found
    raise ValueError(f"the files have too few gaps of the kind {kind!r}")


def _cut(source: SourceText, lines: list[str], first: int, column: int, last: int) -> Gap:
    """Cuts out what stands between a place in line `first` and the end of line `last`."""
    before = "\n".join([*lines[:first], lines[first][:column]])
    missing = "\n".join([lines[first][column:], *lines[first + 1 : last + 1]])
    after = "\n".join(["", *lines[last + 1 :]])
    if len(before) > PREFIX_CHARACTERS:
        before = before[before.find("\n", len(before) - PREFIX_CHARACTERS) + 1 :] or before[-PREFIX_CHARACTERS:]
    return Gap(source.name, before, missing, after[:SUFFIX_CHARACTERS])


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
