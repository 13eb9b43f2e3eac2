"""Texts as they are compared: without white space, in tiles of 50 characters.

Source: Data Portraits, arXiv:2303.03919, which keeps every 50th window of 50 characters. Whoever has copied 99
characters or more has copied one of these tiles whole, wherever the copy begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

TILE = 50
"""Characters."""

LEAST = 2 * TILE - 1
"""The longest copy without a whole tile has one character less."""

Hashes = NDArray[np.uint64]

_ABOVE_SPACES = 0x3001
_IS_SPACE = np.array([chr(code).isspace() for code in range(_ABOVE_SPACES + 1)])
_FACTORS = np.random.Generator(np.random.PCG64(3)).integers(0, 1 << 64, TILE, np.uint64) | np.uint64(1)
"""Part of the index's format, as `_mixed` is: what is changed here is built anew."""


@dataclass(frozen=True)
class Compared:
    """A text without its white space. codes: code points of what is left. places: where each stands in the text."""

    codes: NDArray[np.uint32]
    places: NDArray[np.int32]

    @classmethod
    def of(cls, text: str) -> Compared:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        places = np.flatnonzero(~_IS_SPACE[np.minimum(codes, _ABOVE_SPACES)]).astype(np.int32)
        return cls(codes[places], places)

    def last(self, count: int) -> Compared:
        """Its last characters."""
        start = max(0, len(self.codes) - count)
        return Compared(self.codes[start:], self.places[start:])

    def windows(self) -> Hashes:
        """A hash of every `TILE` characters in a row, by where they begin."""
        if len(self.codes) < TILE:
            return np.empty(0, np.uint64)
        return _hashed(sliding_window_view(self.codes, TILE))

    def tiles(self) -> Hashes:
        """Of every `TILE`th of these windows."""
        whole = len(self.codes) // TILE * TILE
        return _hashed(self.codes[:whole].reshape(-1, TILE))


def _hashed(windows: NDArray[np.uint32]) -> Hashes:
    """Multilinear hashing: a sum of products by random factors, mod 2**64."""
    return _mixed(windows @ _FACTORS)


def _mixed(hashes: Hashes) -> Hashes:
    """The low bits of a product say little. Source: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))
