"""The running sequences' block tables as rows of one array, kept from step to step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model.scheduling.sequence import Sequence


class BlockTables:
    """Each running sequence's blocks in a row of its own, of which a step writes only what is new.

    rows: sequences at most. width: blocks of the longest one.
    """

    def __init__(self, rows: int, width: int) -> None:
        self._table = np.zeros((rows, width), dtype=np.int64)
        self._written = [0] * rows
        self._free = list(range(rows))
        self._row_of: dict[Sequence, int] = {}

    def of(self, sequences: list[Sequence]) -> npt.NDArray[np.int64]:
        """Their tables as they are now [S, n], in order, padded with 0; n: blocks of the longest. S is at least 1.

        Gives a row to those that have none. The answer is a copy: a step in flight keeps it.
        """
        rows = [self._brought_up_to_date(s) for s in sequences]
        return self._table[rows, : max(self._written[row] for row in rows)]

    def _brought_up_to_date(self, sequence: Sequence) -> int:
        """The sequence's row, with the blocks that it has got since the last step."""
        row = self._row_of.get(sequence)
        if row is None:
            row = self._row_of[sequence] = self._free.pop()
        written, blocks = self._written[row], sequence.blocks
        if written < len(blocks):
            self._table[row, written : len(blocks)] = blocks[written:]
            self._written[row] = len(blocks)
        return row

    def release(self, sequence: Sequence) -> None:
        """Forget the table of a sequence that gives up its blocks, if it has one."""
        row = self._row_of.pop(sequence, None)
        if row is not None:
            self._table[row, : self._written[row]] = 0
            self._written[row] = 0
            self._free.append(row)

    def check_integrity(self, running: list[Sequence]) -> None:
        """Raise AssertionError unless every row is free and empty, or holds the first blocks of a running sequence."""
        assert set(self._row_of) <= set(running), "a sequence that does not run holds a row"
        assert sorted([*self._free, *self._row_of.values()]) == list(range(len(self._table))), "a row has leaked"
        expected = np.zeros_like(self._table)
        for sequence, row in self._row_of.items():
            written = self._written[row]
            expected[row, :written] = sequence.blocks[:written]
        assert (expected == self._table).all(), "a row differs from its sequence's blocks"
