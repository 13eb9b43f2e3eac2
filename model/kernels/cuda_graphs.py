"""Decode steps recorded once for each size, then replayed: one launch instead of some hundred.

A step of a few sequences is over sooner than the CPU can launch its kernels one by one. A recorded step reads its
inputs from fixed places and has a fixed size, so a batch is filled up to the next recorded one with rows that read and
write a block of the cache that belongs to nobody.

A graph keeps addresses, not tensors: whatever it reads has to be kept by somebody, for as long as it is replayed.
PyTorch can check that at each replay (`check_input_liveness`), for some 50 us of the launch that graphs are to save,
and does not see what Triton's kernels read: a `RecordedStep` owns everything instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model.batch import Batch, resolve
from model.device import copy_into
from model.network.attention import AttentionPlan

Forward = Callable[[torch.Tensor, torch.Tensor, AttentionPlan], torch.Tensor]
"""Tokens and positions [T], and the attention's plan -> hidden [T, n_embd]."""
Record = Callable[[Callable[[], torch.Tensor]], Callable[[], torch.Tensor]]
"""Makes of a step one that is replayed."""
PlanDecodes = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], AttentionPlan]
"""From slots [B] int64, contexts [B] int32 and block tables [B, n] int32, which may change behind it."""


def sizes_up_to(largest: int) -> list[int]:
    """1, 2, 4, 8, 12, 16, 24, 32, 48, 64, ...: at most half of a step's rows are filled in, a third from 8 on."""
    sizes = [1, 2, 4]
    power = 8
    while sizes[-1] < largest:
        sizes += [power, power * 3 // 2]
        power *= 2
    return [*(s for s in sizes if s < largest), largest]


def record(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """As a CUDA graph. Runs it first, on a stream of its own, so that kernels are compiled and workspaces are there."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # thread_local: NCCL's watchdog, a thread of its own, may ask for events meanwhile
    with torch.cuda.graph(graph, pool=_pool(), capture_error_mode="thread_local"):
        out = run()

    def replay() -> torch.Tensor:
        graph.replay()
        return out

    return replay


@functools.cache
def _pool() -> Any:
    """One pool for all graphs of the process: only one of them runs at a time."""
    return torch.cuda.graph_pool_handle()


def leave_pool() -> None:
    """The next graphs have another pool: PyTorch refuses one whose graphs are all gone."""
    _pool.cache_clear()


@dataclass(frozen=True)
class Spare:
    """A block of the cache that no sequence owns: what the rows that fill a step read and write.

    stripes: ranks that share the cache, each of which has an equal part of the block.
    """

    block: int
    block_size: int
    stripes: int = 1

    @property
    def slot(self) -> int:
        """The first of the block, in this rank's cache."""
        return self.block * (self.block_size // self.stripes)


def numbers_of(batch: Batch, size: int, spare: Spare) -> npt.NDArray[np.int64]:
    """Tokens, positions, slots and drawn rows of a batch [4, size], filled up by rows that belong to nobody."""
    count = len(batch.tokens)
    numbers = np.zeros((4, size), dtype=np.int64)
    numbers[2] = spare.slot
    numbers[3] = -1
    numbers[:3, :count] = batch.tokens, batch.positions, batch.slots
    if batch.drawn_rows is not None:
        numbers[3, :count] = batch.drawn_rows
    return numbers


def replay_error(replay: Callable[[], torch.Tensor], run: Callable[[], torch.Tensor]) -> float:
    """The largest difference between a replay and the same step run kernel by kernel, by the largest value."""
    replayed = replay().clone()
    exact = run()
    return float((replayed - exact).abs().max() / exact.abs().max())


class RecordedStep:
    """One size's step, and all that it reads: its inputs, the attention's plan, and what `forward` and `drawn` hold.

    numbers [4, size]: tokens, positions, slots, drawn rows. contexts [size]; tables [size, width]: block tables.
    """

    def __init__(
        self,
        size: int,
        table_width: int,
        spare: Spare,
        forward: Forward,
        plan_decodes: PlanDecodes,
        drawn: torch.Tensor,
        record: Record,
    ) -> None:
        device = drawn.device
        self._spare, self._forward, self._drawn = spare, forward, drawn
        self._numbers = torch.zeros(4, size, dtype=torch.int64, device=device)
        self._numbers[2] = spare.slot
        self._numbers[3] = -1
        # as long as contexts may be, so that recording and its check run every part of the attention
        longest = table_width * spare.block_size
        self._contexts = torch.full((size,), longest, dtype=torch.int32, device=device)
        self._tables = torch.full((size, table_width), spare.block, dtype=torch.int32, device=device)
        self._plan = plan_decodes(self._numbers[2], self._contexts, self._tables)
        self._replay = record(self._run)

    def _run(self) -> torch.Tensor:
        tokens, positions, _, drawn_rows = self._numbers
        return self._forward(resolve(tokens, drawn_rows, self._drawn), positions, self._plan)

    def max_error(self) -> float:
        """The largest difference between a replay and the same step run kernel by kernel, by the largest value."""
        return replay_error(self._replay, self._run)

    def replay(self, batch: Batch) -> torch.Tensor:
        """Hidden states [T, n_embd] of a batch of decodes that fits. The next call overwrites them."""
        count, used = len(batch.tokens), batch.block_tables.shape[1]
        size = len(self._contexts)
        contexts = np.ones(size, dtype=np.int32)
        contexts[:count] = batch.context_lens
        tables = np.full((size, used), self._spare.block, dtype=np.int32)
        tables[:count] = batch.block_tables
        copy_into(self._numbers, numbers_of(batch, size, self._spare))
        copy_into(self._contexts, contexts)
        copy_into(self._tables[:, :used], tables)
        return self._replay()[:count]


class DecodeGraphs:
    """Recorded decode steps of up to `largest` sequences.

    drawn [n] int64: where the tokens lie that the step before drew; always the same tensor.
    table_width: blocks of the longest sequence.
    """

    def __init__(
        self,
        forward: Forward,
        plan_decodes: PlanDecodes,
        drawn: torch.Tensor,
        *,
        largest: int,
        table_width: int,
        spare: Spare,
        record: Record = record,
    ) -> None:
        self._sizes = sizes_up_to(largest)
        # the largest first: its memory serves the others too
        self._steps = {
            size: RecordedStep(size, table_width, spare, forward, plan_decodes, drawn, record)
            for size in reversed(self._sizes)
        }

    def max_error(self) -> float:
        """The largest of all steps; not a number where some result is none. To be asked before batches are run."""
        return float(torch.tensor([step.max_error() for step in self._steps.values()]).max())

    def fit(self, batch: Batch) -> bool:
        """Whether the batch is nothing but decodes, one logit row each, in order, and not too many."""
        count = len(batch.tokens)
        if not batch.num_decodes == count == len(batch.logit_rows) <= self._sizes[-1]:
            return False
        # a prompt's chunk of one token whose log-probability is wanted has its row before those that are drawn from
        return np.array_equal(batch.logit_rows, np.arange(count))

    def run(self, batch: Batch) -> torch.Tensor:
        """Hidden states [T, n_embd], in the order of the batch. The next call overwrites them."""
        size = next(s for s in self._sizes if s >= len(batch.tokens))
        return self._steps[size].replay(batch)
