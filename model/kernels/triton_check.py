"""Triton's kernels before they serve: every variant is compiled, run once and compared."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import nn

from model.batch import Batch
from model.kernels.triton_attention import Tile, TritonPlan, tile_of, tiles_of
from model.kernels.triton_gemv import MOST_ROWS
from model.kernels.triton_operations import TritonOperations
from model.kernels.triton_stripes import TritonPartPlan
from model.network.attention import attend_reference
from model.network.layers import Linear
from model.network.operations import TorchOperations
from model.network.stripes import Stripe


def max_error(
    n_embd: int,
    heads: int,
    width: int,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
    stripes: int = 1,
) -> float:
    """The largest error of all kernels of a model of width n_embd. Not a number where some answer is none.

    heads: a rank's. stripes: ranks that share a cache.
    """
    errors = (
        attention_error(heads, width, block_size, dtype, device, stripes),
        operations_error(n_embd, heads, width, block_size, dtype, device),
    )
    return float(torch.tensor(errors).max())


def attention_error(
    heads: int, width: int, block_size: int, dtype: torch.dtype, device: torch.device, stripes: int = 1
) -> float:
    """The largest difference between the attention's answers and the definition's, on small random batches.

    heads: a rank's. They run with every size of tile that a step of so many heads can have, on contexts that are split
    and on whole ones, so that nothing is left to be compiled while serving. Not a number where some answer is none.
    """
    heads *= stripes
    errors = [_errors(tile, heads, width, block_size, dtype, device, stripes) for tile in tiles_of(heads)]
    return float(torch.tensor(errors).max())


def _errors(
    tile: Tile, heads: int, width: int, block_size: int, dtype: torch.dtype, device: torch.device, stripes: int
) -> list[float]:
    """Of such tiles: with contexts whole, and split. heads: of all ranks that share a cache."""
    generator = torch.Generator().manual_seed(0)
    tokens = next(n for n in range(1, tile.rows + 1) if tile_of(heads * n) == tile)
    # a decode, one that is in its first block, and a chunk behind what is cached
    lens, contexts = np.array([1, 1, tokens]), np.array([(3 * tile.keys + 5) * stripes, 7, tokens + 40])
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
        attend = plan.attend if stripes == 1 else functools.partial(attend_striped, plan, stripes)
        found = attend(queries.to(device), cache.to(device), width**-0.5).float().cpu()
        errors.append(float((found - exact).abs().max()))
    return errors


def attend_striped(
    plan: TritonPlan, stripes: int, queries: torch.Tensor, cache: torch.Tensor, scale: float
) -> torch.Tensor:
    """As ranks do together that share the cache [2, blocks, block_size, 1, width]; here all are one."""
    everyones = torch.stack(queries.chunk(stripes, dim=1))
    ranks = [TritonPartPlan(plan, Stripe(stripes, own)) for own in range(stripes)]
    found = [rank.attend_part(everyones, cache[:, :, rank.stripe.own :: stripes].contiguous(), scale) for rank in ranks]
    received = torch.stack(found, dim=1)  # [ranks that ask, ranks that found, T, heads, ...]
    return torch.cat([rank.join(parts, queries.shape[-1]) for rank, parts in zip(ranks, received, strict=True)], dim=1)


def operations_error(
    n_embd: int, heads: int, width: int, block_size: int, dtype: torch.dtype, device: torch.device
) -> float:
    """The largest difference between what `TritonOperations` and PyTorch make of small random tensors."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    x, more, qkv = noise(3, n_embd), noise(3, n_embd), noise(3, heads + 2, width)
    norm = nn.LayerNorm(n_embd, device=device, dtype=dtype)
    norm.weight.data, norm.bias.data = noise(n_embd), noise(n_embd)
    slots = torch.tensor([block_size + 1, 0, 2 * block_size - 1], device=device)
    caches = torch.zeros(2, 2, 2, block_size, 1, width, device=device, dtype=dtype)
    ours, exact = TritonOperations(), TorchOperations()
    with torch.inference_mode():
        ours.write(caches[0], qkv, slots)
        exact.write(caches[1], qkv, slots)
        pairs = zip(ours.add_norm(x, more, norm), exact.add_norm(x, more, norm), strict=True)
        errors = [(a.float() - b.float()).abs().max() for a, b in (*pairs, tuple(caches))]
        weight = noise(width, n_embd) / n_embd**0.5
        layers = Linear(weight, noise(width)), Linear(weight, None)
        for x in (noise(1, n_embd), noise(MOST_ROWS, n_embd)):
            made = [(ours.linear(layer, x), exact.linear(layer, x)) for layer in layers]
            made.append((ours.activated(layers[0], x, "gelu_tanh"), exact.activated(layers[0], x, "gelu_tanh")))
            errors += [(a.float() - b.float()).abs().max() for a, b in made]
    return float(torch.stack(errors).max())
