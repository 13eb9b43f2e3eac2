"""Cuts documents that are ids already, at any character: into pieces, and pieces into prefix, middle and suffix.

An editor's cursor stands within words, and what it sends is encoded from there: the ids around a cut must be those of
the parts, not of the whole. Between a character that is no white space and one that is, byte-level BPE always begins
anew. So only what stands between a cut and the next such place is encoded again, which is a word or an indentation,
and nearly all of these have been seen before.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.pico.gpu.tokens import Ids

Encode = Callable[[str], list[int]]

_SPACE = frozenset(b" \t\n\r\f\v")
_REMEMBERED = 400_000
_LONGEST_LINES = 12


class Encoder:
    """Encodes short strings, and remembers them."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._known: dict[bytes, Ids] = {}

    def __call__(self, text: bytes) -> Ids:
        found = self._known.get(text)
        if found is None:
            found = np.array(self._encode(text.decode("utf-8", "replace")), np.uint16)
            if len(text) < 64 and len(self._known) < _REMEMBERED:
                self._known[text] = found
        return found


class Document:
    """A text as bytes and ids, from which the ids of any part can be had."""

    def __init__(self, ids: Ids, table: list[bytes], lengths: NDArray[np.int64], encode: Encoder) -> None:
        """`table` and `lengths` are the bytes of each id, and how many."""
        self.ids, self._encode = ids, encode
        self.text = b"".join([table[id] for id in ids.tolist()])
        self.ends = np.concatenate([[0], np.cumsum(lengths[ids])])

    def _after(self, place: int, limit: int) -> int:
        """The first place from `place` on where white space follows something else, or `limit`."""
        text = self.text
        place = max(place, 1)
        while place < limit and not (text[place] in _SPACE and text[place - 1] not in _SPACE):
            place += 1
        return min(place, limit)

    def _before(self, place: int, limit: int) -> int:
        """The last such place up to `place`, or `limit`. The end of the text counts as one behind its last token."""
        text = self.text
        if place == len(text):
            return place
        while place > limit and not (text[place] in _SPACE and text[place - 1] not in _SPACE):
            place -= 1
        return max(place, limit)

    def between(self, start: int, end: int) -> list[Ids]:
        """The ids of the bytes from `start` to `end` as if they were encoded alone, in parts to be joined."""
        if start >= end:
            return []
        first = 0 if start == 0 else self._after(start, end)
        last = self._before(end, start)
        if first >= last:
            return [self._encode(self.text[start:end])]
        a, b = np.searchsorted(self.ends, (first, last)).tolist()
        if self.ends[a] != first or self.ends[b] != last:  # white space that is not ASCII stood there
            return [self._encode(self.text[start:end])]
        parts = [self.ids[a:b]]
        if start < first:
            parts.insert(0, self._encode(self.text[start:first]))
        if last < end:
            parts.append(self._encode(self.text[last:end]))
        return parts

    def character(self, place: int) -> int:
        """The start of the character that the byte at `place` belongs to."""
        while 0 < place < len(self.text) and self.text[place] & 0xC0 == 0x80:
            place -= 1
        return place


def pieces(text: bytes, shortest: int, longest: int, rng: random.Random) -> list[tuple[int, int]]:
    """Cuts a text at line ends into pieces of about `shortest` to `longest` bytes, log-uniform."""
    found = list[tuple[int, int]]()
    start = 0
    while start < len(text):
        size = int(math.exp(rng.uniform(math.log(shortest), math.log(longest))))
        end = text.find(b"\n", start + size) + 1
        if end == 0 or len(text) - end < shortest:
            end = len(text)
        end = min(end, start + 2 * longest)
        while end < len(text) and text[end] & 0xC0 == 0x80:
            end += 1
        found.append((start, end))
        start = end
    return found


@dataclass(frozen=True)
class Kinds:
    """How often each kind of hole is cut; the shares add up to 1.

    line: one line behind its indentation. rest: a line from a point in it to its end. open: the same, or some lines
    more, with nothing behind it, as where a file is written from top to bottom. within: up to 16 bytes in a line.
    lines: 2 to 12 lines. block: lines until the indentation falls back. any: between two points.
    """

    line: float = 0.34
    rest: float = 0.26
    open: float = 0.13
    within: float = 0.09
    lines: float = 0.06
    block: float = 0.07
    any: float = 0.05


def _line(text: bytes, start: int, end: int, rng: random.Random) -> tuple[int, int]:
    """One of the lines between `start` and `end`, behind its indentation; rarely a blank one."""
    lines = text[start:end].split(b"\n")
    for _ in range(4):
        at = rng.randrange(len(lines))
        if stripped := lines[at].lstrip():
            break
    last = start + sum(map(len, lines[: at + 1])) + at
    return last - len(stripped), last


def _inside(first: int, last: int, rng: random.Random) -> int:
    """A point in a line; its start in one case of eight."""
    return first if rng.random() < 0.125 else rng.randint(first, last)


def _lines_on(text: bytes, place: int, end: int, number: int) -> int:
    """The end of the line that is `number` lines below that of `place`."""
    for _ in range(number + 1):
        found = text.find(b"\n", place, end)
        if found < 0:
            return end
        place = found + 1
    return place - 1


def _block_end(text: bytes, first: int, end: int) -> int:
    """The end of the last line that stands as deep as the line that begins at `first`, or deeper."""
    depth = first - (text.rfind(b"\n", 0, first) + 1)
    last = _lines_on(text, first, end, 0)
    for _ in range(_LONGEST_LINES):
        if last >= end:
            break
        after = _lines_on(text, last + 1, end, 0)
        line = text[last + 1 : after]
        if line.strip() and len(line) - len(line.lstrip()) < depth:
            break
        last = after
    while last > first and text[last - 1] in _SPACE:
        last -= 1
    return last


def hole(document: Document, start: int, end: int, rng: random.Random, kinds: Kinds) -> tuple[int, int, int]:
    """Where the middle of a piece begins and ends, and where the piece ends."""
    text, shares = document.text, vars(kinds)
    name = rng.choices(list(shares), list(shares.values()))[0]
    if name == "any":
        a, b = sorted((rng.randint(start, end), rng.randint(start, end)))
        return document.character(a), document.character(b), end
    first, last = _line(text, start, end, rng)
    if name == "lines":
        last = _lines_on(text, first, end, rng.randint(1, _LONGEST_LINES - 1))
    elif name == "block":
        last = _block_end(text, first, end)
    elif name == "rest":
        first = _inside(first, last, rng)
    elif name == "within":
        first = _inside(first, last, rng)
        last = min(last, first + rng.randint(1, 16))
    elif name == "open":
        first = _inside(first, last, rng)
        if rng.random() < 0.4:
            last = _lines_on(text, first, end, rng.randint(1, 6))
        last = document.character(last)
        return document.character(first), last, last
    return document.character(first), document.character(last), end
