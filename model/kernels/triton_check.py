"""Triton's attention before it serves: every variant of its kernels is compiled, run once and compared."""

from __future__ import annotations

import numpy as np
import torch

from model.batch import Batch
from model.kernels.triton_attention import KEYS, TritonPlan, rows_of_tile, tile_sizes
from model.network.attention import attend_reference


def max_error(heads: int, width: int, block_size: int, dtype: torch.dtype, device: torch.device) -> float:
    """The largest difference between the kernels' answers and the definition's, on small random batches.

    heads: a rank's. They run with every size of tile that a step of so many heads can have, on contexts that are split
    and on whole ones, so that nothing is left to be compiled while serving. Not a number where some answer is none.
    """
    errors = [_errors(rows, heads, width, block_size, dtype, device) for rows in tile_sizes(heads)]
    return float(torch.tensor(errors).max())


def _errors(
    rows: int, heads: int, width: int, block_size: int, dtype: torch.dtype, device: torch.device
) -> list[float]:
    """Of tiles of so many rows: with contexts whole, and split."""
    generator = torch.Generator().manual_seed(0)
    tokens = next(n for n in range(1, rows + 1) if rows_of_tile(heads * n) == rows)
    # a decode, one that is in its first block, and a chunk behind what is cached
    lens, contexts = np.array([1, 1, tokens]), np.array([3 * KEYS + 5, 7, tokens + 40])
    blocks = -(-contexts // block_size)
    tables = np.zeros((3, int(blocks.max())), dtype=np.int64)
    order = torch.randperm(int(blocks.sum()), generator=generator).numpy()
    for row, (end, count) in enumerate(zip(np.cumsum(blocks), blocks, strict=True)):
        tables[row, :count] = order[end - count : end]
    nothing = np.zeros(0, dtype=np.int64)
    batch = Batch(nothing, nothing, nothing, lens, contexts, tables, nothing, num_decodes=2)
    queries = torch.randn(int(lens.sum()), heads, width, generator=generator).to(dtype)
    cache = torch.randn(2, len(order), block_size, 1, width, generator=generator).to(dtype)
    exact = attend_reference(queries.float(), cache.float(), batch, width**-0.5)
    errors = []
    for splits in (1, 3):
        plan = TritonPlan.of(batch, heads, device, programs=1, splits=splits)
        found = plan.attend(queries.to(device), cache.to(device), width**-0.5).float().cpu()
        errors.append(float((found - exact).abs().max()))
    return errors
