"""A Bloom filter in one file: what is in it is always found, and of what is not, one in a million.

It is mapped into memory, so that all processes of a node share it, and asked for all windows of a text at once: a
library's filter would be asked a window at a time, and be in every process.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deployments.attribution.tiles import Hashes

FALSE_POSITIVES = 1e-6

PROBES = math.ceil(-math.log2(FALSE_POSITIVES))
"""Bits of one element: the best number where half of all bits are set."""

_BITS_EACH = PROBES / math.log(2)


class BloomFilter:
    """bits: eight in a byte."""

    def __init__(self, bits: NDArray[np.uint8]) -> None:
        self._bits = bits
        self._size = np.uint64(8 * len(bits))

    @classmethod
    def of(cls, parts: Iterable[Hashes], count: int) -> BloomFilter:
        """Of `count` hashes in all."""
        found = cls(np.zeros(max(8, math.ceil(count * _BITS_EACH / 8)), np.uint8))
        for hashes in parts:
            for probe in range(PROBES):
                at, bit = found._place(hashes, probe)
                np.bitwise_or.at(found._bits, at, bit)
        return found

    @classmethod
    def open(cls, path: Path) -> BloomFilter:
        """Raises OSError, ValueError."""
        return cls(np.load(path, mmap_mode="r"))

    def save(self, path: Path) -> None:
        np.save(path, self._bits)

    def find(self, hashes: Hashes) -> NDArray[np.intp]:
        """Where those stand in `hashes` that are in it, in order."""
        alive = np.arange(len(hashes))
        for probe in range(PROBES):
            at, bit = self._place(hashes[alive], probe)
            alive = alive[self._bits[at] & bit != 0]
            if not len(alive):
                break
        return alive

    def _place(self, hashes: Hashes, probe: int) -> tuple[Hashes, NDArray[np.uint8]]:
        """The byte and the bit in it. Source: Kirsch and Mitzenmacher, "Less Hashing, Same Performance" (2006)."""
        step = (hashes >> np.uint64(32)) | (hashes << np.uint64(32)) | np.uint64(1)
        place = (hashes + np.uint64(probe) * step) % self._size
        return place >> np.uint64(3), np.left_shift(1, place & np.uint64(7)).astype(np.uint8)
