"""Batches made by hand, for a network without an engine."""

from __future__ import annotations

import numpy as np

from model.batch import Batch

BLOCK_SIZE = 16


def batch_of(rows: list[tuple[int, int]], vocab_size: int, seed: int, all_logits: bool = True) -> Batch:
    """rows: for each sequence (tokens in the cache already, new tokens); blocks are handed out in random order."""
    rng = np.random.default_rng(seed)
    rows = sorted(rows, key=lambda r: r[1] > 1)
    free = list(rng.permutation(np.arange(1, 200)))
    width = max(-(-(old + new) // BLOCK_SIZE) for old, new in rows)
    tables = np.zeros((len(rows), width), np.int64)
    tokens, positions, slots, logit_rows = [], [], [], []
    for i, (old, new) in enumerate(rows):
        used = -(-(old + new) // BLOCK_SIZE)
        tables[i, :used] = [free.pop() for _ in range(used)]
        for position in range(old, old + new):
            tokens.append(int(rng.integers(vocab_size)))
            positions.append(position)
            slots.append(int(tables[i, position // BLOCK_SIZE]) * BLOCK_SIZE + position % BLOCK_SIZE)
        logit_rows += range(len(tokens) - new, len(tokens)) if all_logits else [len(tokens) - 1]
    return Batch(
        tokens=np.array(tokens),
        positions=np.array(positions),
        slots=np.array(slots),
        query_lens=np.array([new for _, new in rows]),
        context_lens=np.array([old + new for old, new in rows]),
        block_tables=tables,
        logit_rows=np.array(logit_rows),
        num_decodes=sum(new == 1 for _, new in rows),
    )


def part_of(batch: Batch, i: int, start: int) -> Batch:
    """The batch of its sequence i alone, whose rows begin at `start`."""
    part = slice(start, start + batch.query_lens[i])
    return Batch(
        tokens=batch.tokens[part],
        positions=batch.positions[part],
        slots=batch.slots[part],
        query_lens=batch.query_lens[i : i + 1],
        context_lens=batch.context_lens[i : i + 1],
        block_tables=batch.block_tables[i : i + 1],
        logit_rows=np.arange(batch.query_lens[i]),
        num_decodes=int(batch.query_lens[i] == 1),
    )
