"""Steps that hold more than decodes, recorded too: chunks of prompts and drafts beside decodes, up to a size.

Launching a step's kernels one by one takes the CPU longer than a GPU computes a few hundred tokens: beside an H100
24 ms for the 15.5B shape, where a replayed decode step takes 13. Every prompt that arrives while others decode is such
a step, and so is every step with drafts. Attention takes its tiles from arrays, so a recording of T tokens serves every
batch of T tokens or fewer, whoever they belong to: what is left over belongs to a sequence of no tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from model.batch import Batch, resolve
from model.device import copy_into
from model.kernels.cuda_graphs import Record, Spare, numbers_of, record, replay_error
from model.limits import DRAFTED_ROWS
from model.network.attention import AttentionPlan

Forward = Callable[[torch.Tensor, torch.Tensor, AttentionPlan, torch.Tensor], torch.Tensor]
"""Tokens and positions [T], the attention's plan, and rows [R] -> hidden [R, n_embd]."""
MOST_TOKENS = 512
"""Beyond them a step keeps an H100 busy for longer than its launches take."""
EVERY_ROW = DRAFTED_ROWS["cuda"]
"""Up to so many tokens each may want logits, as drafts do; beyond, one row a sequence."""


@dataclass(frozen=True)
class Layout:
    """Where a step's sequences lie, on the device; what is written into these tensors changes the plan.

    slots [T] int64; sequences [3, S + 1 or more]: first token, tokens and context of each; tables [S + 1, n]: block
    tables; tiles [2, K]: sequence and first row of each tile of the attention. Sequence S has no tokens.
    """

    slots: torch.Tensor
    sequences: torch.Tensor
    tables: torch.Tensor
    tiles: torch.Tensor


class Planner(Protocol):
    """What recordings ask of an attention. tokens: of the recording, which decides how its tiles are shaped."""

    def cut(
        self, query_lens: npt.NDArray[np.int64], tokens: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Sequence and first row of each tile of sequences with so many new tokens [S]."""
        ...

    def most_tiles(self, tokens: int, sequences: int) -> int:
        """That so many tokens of so many sequences can need."""
        ...

    def plan_layout(self, layout: Layout, tokens: int, longest: int) -> AttentionPlan:
        """For contexts of up to `longest` tokens."""
        ...


class RecordedMix:
    """The step of `tokens` tokens, `sequences` sequences and `rows` logit rows at most, and all that it reads."""

    def __init__(
        self,
        tokens: int,
        sequences: int,
        rows: int,
        table_width: int,
        spare: Spare,
        forward: Forward,
        planner: Planner,
        drawn: torch.Tensor,
        record: Record,
    ) -> None:
        device = drawn.device
        self._spare, self._forward, self._drawn, self._planner = spare, forward, drawn, planner
        self.tokens, self.sequences, self.rows = tokens, sequences, rows

        def zeros(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        # tokens, positions, slots, drawn rows; then the rows whose logits are wanted
        self._numbers = zeros(4, tokens, dtype=torch.int64)
        self._rows = zeros(rows, dtype=torch.int64)
        tiles = _aligned(planner.most_tiles(tokens, sequences))
        where = zeros(3, _aligned(sequences + 1))
        self._layout = Layout(self._numbers[2], where, zeros(sequences + 1, table_width), zeros(2, tiles))
        longest = table_width * spare.block_size
        self._plan = planner.plan_layout(self._layout, tokens, longest)
        self._fill(self._example(longest))
        self._replay = record(self._run)

    def _run(self) -> torch.Tensor:
        tokens, positions, _, drawn_rows = self._numbers
        return self._forward(resolve(tokens, drawn_rows, self._drawn), positions, self._plan, self._rows)

    def _example(self, longest: int) -> Batch:
        """All that it holds, with contexts as long as they may be, so that recording and its check run every part."""
        every = np.arange(self.sequences)
        lens = self.tokens // self.sequences + (every >= self.sequences - self.tokens % self.sequences)
        return Batch(
            tokens=np.zeros(self.tokens, dtype=np.int64),
            positions=np.zeros(self.tokens, dtype=np.int64),
            slots=np.full(self.tokens, self._spare.slot),
            query_lens=lens,
            context_lens=np.full(self.sequences, longest),
            block_tables=np.full((self.sequences, longest // self._spare.block_size), self._spare.block),
            logit_rows=np.resize(np.cumsum(lens) - 1, self.rows),
            num_decodes=int((lens == 1).sum()),
        )

    def max_error(self) -> float:
        """The largest difference between a replay and the same step run kernel by kernel, by the largest value."""
        return replay_error(self._replay, self._run)

    def holds(self, batch: Batch) -> bool:
        return (
            len(batch.tokens) <= self.tokens
            and len(batch.query_lens) <= self.sequences
            and len(batch.logit_rows) <= self.rows
        )

    def replay(self, batch: Batch) -> torch.Tensor:
        """Hidden states [R, n_embd] of a batch that it holds. The next call overwrites them."""
        self._fill(batch)
        return self._replay()[: len(batch.logit_rows)]

    def _fill(self, batch: Batch) -> None:
        lens = batch.query_lens
        sequences, used = len(lens), batch.block_tables.shape[1]
        where = np.zeros(self._layout.sequences.shape, dtype=np.int32)
        where[:, :sequences] = np.cumsum(lens) - lens, lens, batch.context_lens
        cut = np.array(self._planner.cut(lens, self.tokens), dtype=np.int32)
        tiles = np.zeros(self._layout.tiles.shape, dtype=np.int32)
        tiles[0] = self.sequences
        tiles[:, : cut.shape[1]] = cut
        rows = np.zeros(self.rows, dtype=np.int64)
        rows[: len(batch.logit_rows)] = batch.logit_rows
        copy_into(self._numbers, numbers_of(batch, self.tokens, self._spare))
        copy_into(self._rows, rows)
        copy_into(self._layout.sequences, where)
        copy_into(self._layout.tiles, tiles)
        copy_into(self._layout.tables[:sequences, :used], batch.block_tables.astype(np.int32))


def _aligned(count: int) -> int:
    """So many numbers of 4 bytes that a row after them begins where kernels expect it, at a multiple of 16 bytes."""
    return -(-count // 4) * 4


class MixedGraphs:
    """Recorded steps of up to `most_tokens` tokens of up to `most_sequences` sequences.

    drawn [n] int64: where the tokens lie that the step before drew; always the same tensor.
    table_width: blocks of the longest sequence.
    """

    def __init__(
        self,
        forward: Forward,
        planner: Planner,
        drawn: torch.Tensor,
        *,
        most_tokens: int,
        most_sequences: int,
        table_width: int,
        spare: Spare,
        record: Record = record,
    ) -> None:
        def recorded(tokens: int) -> RecordedMix:
            sequences = min(tokens, most_sequences)
            rows = tokens if tokens <= EVERY_ROW else sequences
            return RecordedMix(tokens, sequences, rows, table_width, spare, forward, planner, drawn, record)

        # the largest first: its memory serves the others too
        most = min(most_tokens, MOST_TOKENS, most_sequences * table_width * spare.block_size)
        largest_first = [recorded(tokens) for tokens in reversed(token_counts(most))]
        self._steps = largest_first[::-1]

    def max_error(self) -> float:
        """The largest of all steps; not a number where some result is none. To be asked before batches are run."""
        return float(torch.tensor([step.max_error() for step in self._steps]).max())

    def run(self, batch: Batch) -> torch.Tensor | None:
        """Hidden states [R, n_embd] of the batch's logit rows, or None where no recording holds it.

        The next call overwrites them.
        """
        step = next((step for step in self._steps if step.holds(batch)), None)
        return None if step is None else step.replay(batch)


def token_counts(most: int) -> list[int]:
    """Of the recordings: close together where computing costs most, since what is filled up is computed too."""
    counts = [2, 4, 8, 16, 24, 32, 48, *range(64, 320, 16), *range(320, MOST_TOKENS + 1, 32)]
    return [*(count for count in counts if count < most), most]
