"""Decode steps recorded once for each size, then replayed: one launch instead of some hundred.

A step of a few sequences is over sooner than the CPU can launch its kernels one by one. A recorded step reads its
inputs from fixed places and has a fixed size, so a batch is filled up to the next recorded one with rows that read and
write a block of the cache that belongs to nobody.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from model.batch import Batch, resolve
from model.device import copy_into
from model.network.attention import AttentionPlan, Kernel

Forward = Callable[[torch.Tensor, torch.Tensor, AttentionPlan], torch.Tensor]
"""Tokens and positions [T], and the attention's plan -> hidden [T, n_embd]."""
Record = Callable[[Callable[[], torch.Tensor]], Callable[[], torch.Tensor]]
"""Makes of a step one that is replayed."""
DecodeKernel = Callable[[torch.Tensor, torch.Tensor], Kernel]
"""From context_lens [B] int32 and block tables [B, n] int32, which may change behind it."""


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


@dataclass(frozen=True)
class _Step:
    """One size's inputs and the step that reads them. numbers [4, size]: tokens, positions, slots, drawn rows."""

    numbers: torch.Tensor
    contexts: torch.Tensor
    tables: torch.Tensor
    replay: Callable[[], torch.Tensor]


class DecodeGraphs:
    """Recorded decode steps of up to `largest` sequences.

    drawn [n] int64: where the tokens lie that the step before drew; always the same tensor.
    table_width: blocks of the longest sequence. spare_block: a block of the cache that no sequence owns.
    """

    def __init__(
        self,
        forward: Forward,
        kernel_for: DecodeKernel,
        drawn: torch.Tensor,
        *,
        largest: int,
        table_width: int,
        block_size: int,
        spare_block: int,
        record: Record = record,
    ) -> None:
        self._spare_block, self._block_size = spare_block, block_size
        self._sizes = sizes_up_to(largest)
        self._steps: dict[int, _Step] = {}
        device = drawn.device
        for size in reversed(self._sizes):  # the largest first: its memory serves the others too
            numbers = torch.zeros(4, size, dtype=torch.int64, device=device)
            numbers[2] = spare_block * block_size
            numbers[3] = -1
            contexts = torch.ones(size, dtype=torch.int32, device=device)
            tables = torch.full((size, table_width), spare_block, dtype=torch.int32, device=device)
            plan = AttentionPlan.by_kernel(numbers[2], kernel_for(contexts, tables))

            def run(numbers: torch.Tensor = numbers, plan: AttentionPlan = plan) -> torch.Tensor:
                return forward(resolve(numbers[0], numbers[3], drawn), numbers[1], plan)

            self._steps[size] = _Step(numbers, contexts, tables, record(run))

    def fit(self, batch: Batch) -> bool:
        """Whether the batch is nothing but decodes, one logit row each, and not too many."""
        count = len(batch.tokens)
        return batch.num_decodes == count == len(batch.logit_rows) <= self._sizes[-1]

    def run(self, batch: Batch) -> torch.Tensor:
        """Hidden states [T, n_embd], in the order of the batch. The next call overwrites them."""
        count, used = len(batch.tokens), batch.block_tables.shape[1]
        size = next(s for s in self._sizes if s >= count)
        step = self._steps[size]
        numbers = np.zeros((4, size), dtype=np.int64)
        numbers[2] = self._spare_block * self._block_size
        numbers[3] = -1
        numbers[:3, :count] = batch.tokens, batch.positions, batch.slots
        if batch.drawn_rows is not None:
            numbers[3, :count] = batch.drawn_rows
        contexts = np.ones(size, dtype=np.int32)
        contexts[:count] = batch.context_lens
        tables = np.full((size, used), self._spare_block, dtype=np.int32)
        tables[:count] = batch.block_tables
        copy_into(step.numbers, numbers)
        copy_into(step.contexts, contexts)
        copy_into(step.tables[:, :used], tables)
        return step.replay()[:count]
