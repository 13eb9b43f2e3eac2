"""One step's work as plain arrays: what rank 0 tells every rank to run."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch


@dataclass(frozen=True)
class Batch:
    """T new tokens of S sequences: decodes (one token each) first, then prefill chunks.

    tokens, positions, slots [T]: ids, absolute positions, cache slots.
    query_lens [S]: new tokens of each sequence; context_lens [S]: its length including them.
    block_tables [S, n]: its blocks in order, padded with 0.
    logit_rows [R]: rows of T whose next-token logits are wanted.
    broadcasts: how many tokens are drawn of this step and go to every rank, for the next one's batch.
    drawn_rows [T]: of each token that was still awaited when the batch was built, its row among what the step before
        drew, and `tokens` holds 0; -1 for all others. None where no token is awaited.
    """

    tokens: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64]
    query_lens: npt.NDArray[np.int64]
    context_lens: npt.NDArray[np.int64]
    block_tables: npt.NDArray[np.int64]
    logit_rows: npt.NDArray[np.int64]
    num_decodes: int
    broadcasts: int = 0
    drawn_rows: npt.NDArray[np.int64] | None = None

    def to_bytes(self) -> bytes:
        """All numbers, which fit, in 32 bits: sizes, then array after array."""
        rows = self.block_tables.reshape(-1)
        drawn = () if self.drawn_rows is None else (self.drawn_rows,)
        head = (
            len(self.tokens),
            *self.block_tables.shape,
            len(self.logit_rows),
            self.num_decodes,
            self.broadcasts,
            len(drawn),
        )
        arrays = (self.tokens, self.positions, self.slots, self.query_lens, self.context_lens, rows, self.logit_rows)
        return np.concatenate([head, *arrays, *drawn], dtype=np.int32, casting="same_kind").tobytes()

    @staticmethod
    def from_bytes(data: bytes) -> Batch:
        """What `to_bytes` has made of a batch."""
        numbers = np.frombuffer(data, dtype=np.int32).astype(np.int64)
        tokens, sequences, blocks, rows, num_decodes, broadcasts, drawn = numbers[:7].tolist()
        sizes = (tokens,) * 3 + (sequences,) * 2 + (sequences * blocks, rows, tokens * drawn)
        ends = itertools.accumulate(sizes, initial=7)
        arrays = [numbers[start:end] for start, end in itertools.pairwise(ends)]
        return Batch(
            tokens=arrays[0],
            positions=arrays[1],
            slots=arrays[2],
            query_lens=arrays[3],
            context_lens=arrays[4],
            block_tables=arrays[5].reshape(sequences, blocks),
            logit_rows=arrays[6],
            num_decodes=num_decodes,
            broadcasts=broadcasts,
            drawn_rows=arrays[7] if drawn else None,
        )


def resolve(tokens: torch.Tensor, drawn_rows: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Ids [T] of a batch's `tokens`, those with a row in `drawn_rows` from `drawn`, what the step before drew."""
    return torch.where(drawn_rows < 0, tokens, drawn[drawn_rows.clamp(min=0)])
