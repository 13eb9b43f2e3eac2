"""One step's work as plain arrays: what rank 0 tells every rank to run."""

from __future__ import annotations

import pickle
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
        return pickle.dumps(self, protocol=pickle.HIGHEST_PROTOCOL)

    @staticmethod
    def from_bytes(data: bytes) -> Batch:
        """Only for bytes from rank 0's private socket: unpickling runs code."""
        batch = pickle.loads(data)
        assert isinstance(batch, Batch)
        return batch


def resolve(tokens: torch.Tensor, drawn_rows: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Ids [T] of a batch's `tokens`, those with a row in `drawn_rows` from `drawn`, what the step before drew."""
    return torch.where(drawn_rows < 0, tokens, drawn[drawn_rows.clamp(min=0)])
