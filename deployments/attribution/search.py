"""Which parts of a completion stand in the index."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from deployments.attributed import Attribution, Source
from deployments.attribution.index import Index, IndexedFile
from deployments.attribution.tiles import LEAST, TILE, Compared

BEFORE = 150
"""Characters before the completion that are looked at with it: of a copy, a person may have typed the beginning."""

LONG = 150
"""Characters: a copy of so many is never written where copies are blocked."""

OWN = 20
"""Of a copy so many characters are the completion's, or it is the person's. As many may a source lack at its ends."""

MOST_SOURCES = 5

_MOST_COMPARED = 256
"""Places in files with which one completion is compared: so its work is linear, whatever the index holds."""


@dataclass(frozen=True)
class Copy:
    """A part of a text that a file has, too, and that cannot be made longer; without white space.

    start, end: in the text. file, place: where it begins in a file.
    """

    start: int
    end: int
    file: IndexedFile
    place: int

    @property
    def length(self) -> int:
        return self.end - self.start


class Looked:
    """A completion and what stands before it, looked up in an index. Characters are counted without white space.

    `BEFORE` characters of `before` are looked at. Work is linear in the texts. seconds: that it took.
    """

    def __init__(self, index: Index, before: str, text: str) -> None:
        started_at = time.perf_counter()
        self._index = index
        self._text = Compared.of(text)
        head = Compared.of(before).last(BEFORE)
        self._begins = len(head.codes)
        self._whole = Compared(
            np.concatenate([head.codes, self._text.codes]), np.concatenate([head.places, self._text.places])
        )
        self.copies = list(self._copies())
        self.attributions = self._attributions()
        self.seconds = time.perf_counter() - started_at

    def _attributions(self) -> list[Attribution]:
        """Of copies that hold `LEAST` characters or more, from left to right; each part of the text is in one."""
        found: list[Attribution] = []
        reached = self._begins
        copies = [copy for copy in self.copies if copy.length >= LEAST]
        for longest in sorted(copies, key=lambda copy: (copy.start, -copy.end)):
            own, end = max(longest.start, reached), longest.end
            if end - own < OWN:
                continue
            first, last = self._whole.places[own], self._whole.places[end - 1]
            same = (copy for copy in copies if copy.start <= own + OWN and copy.end >= end - OWN)
            sources = [_source(copy, own) for copy in islice(same, MOST_SOURCES)]
            found.append(Attribution(int(first), int(last) + 1, sources))
            reached = end
        return found

    def cut(self, written: int = 0) -> int | None:
        """Where the text has to end so that no copy has `LONG` characters, in characters of it; None: at its end.

        A copy that a person has begun goes on for `OWN` characters. written: of those before the text, so many are
        the completion's, too.
        """
        least = self._begins - written + OWN
        long = ((copy, max(copy.start + LONG - 1, least)) for copy in self.copies)
        ends = [end for copy, end in long if copy.end > end]
        return int(self._whole.places[max(self._begins, min(ends))]) if ends else None

    def unfinished(self) -> int:
        """How long a copy may be that ends with it: as long as those found, or too short to be found."""
        end = len(self._whole.codes)
        return max([LEAST - 1, *(copy.length for copy in self.copies if copy.end == end)])

    def _copies(self) -> Iterator[Copy]:
        hashes = self._whole.windows()
        # A copy holds many tiles: how far one reaches, by the file and how far it is moved against it.
        reached: dict[tuple[int, int], int] = {}
        enough: list[int] = []
        compared = 0
        for at, places in self._index.places(hashes):
            for number, place in places:
                if sum(end >= at + TILE for end in enough) >= MOST_SOURCES:
                    break
                if reached.get((number, place - at), 0) >= at + TILE:
                    continue
                if compared == _MOST_COMPARED:
                    return
                compared += 1
                file = self._index.file(number)
                copy = None if file is None else self._extended(at, file, place)
                if copy is not None:
                    reached[number, place - at] = copy.end
                    if copy.length >= LEAST:
                        enough.append(copy.end)
                    yield copy

    def _extended(self, at: int, file: IndexedFile, place: int) -> Copy | None:
        """The longest common part around a tile; None where only the hashes are equal."""
        here, there = self._whole.codes, file.compared.codes
        right = _alike(here[at:], there[place:])
        if right < TILE:
            return None
        left = _alike(here[:at][::-1], there[:place][::-1])
        return Copy(at - left, at + right, file, place - left)


def _alike(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> int:
    """How many of their first characters are the same."""
    length = min(len(one), len(other))
    differing = one[:length] != other[:length]
    return int(differing.argmax()) if differing.any() else length


def _source(copy: Copy, own: int) -> Source:
    """own: where the part of the copy begins that is the completion's."""
    file = copy.file
    at = int(file.compared.places[copy.place + max(0, own - copy.start)])
    return Source(file.path, file.text.count("\n", 0, at) + 1, file.licence)
