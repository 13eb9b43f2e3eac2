"""Where the fused all-reduce (`triton_all_reduce`) keeps what in each rank's memory, and how much it is for."""

from __future__ import annotations

from dataclasses import dataclass

MOST_ROWS = 64
MOST_READ = 9 << 18
"""Bytes that a rank reads in a call, of all ranks: 48 rows of StarCoder of four ranks, 24 of eight, as recorded steps
have them. Beyond that it takes less time that each rank adds up a part only. vLLM's limits of its one-shot all-reduce
are about these; not measured."""
PLACES = 2
"""For the values of a row, a power of two: calls take turns."""
_LINE = 128
"""Bytes at whose multiples the signals begin."""


@dataclass(frozen=True)
class Layout:
    """Of `ranks` ranks, for rows of `width` values of so many bytes: values [PLACES, rows, width], then from byte
    `signals` on int32 [rows, ranks]."""

    ranks: int
    width: int
    bytes_per_value: int

    @property
    def rows(self) -> int:
        """Of a call, at most."""
        return min(MOST_ROWS, max(1, MOST_READ // (self.ranks * self.width * self.bytes_per_value)))

    @property
    def signals(self) -> int:
        return -(-PLACES * self.rows * self.width * self.bytes_per_value // _LINE) * _LINE

    @property
    def bytes(self) -> int:
        return self.signals + self.rows * self.ranks * 4
