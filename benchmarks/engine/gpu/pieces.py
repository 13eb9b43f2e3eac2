"""Single pieces of a step beside other ways of computing them: what each gains, and which shape of a kernel is best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.engine.gpu.checks import BLOCK, batch_of
from benchmarks.engine.gpu.context import Context
from benchmarks.engine.gpu.session import Found, Skip
from benchmarks.engine.limits import launch_seconds
from benchmarks.engine.linear import layer_sizes
from benchmarks.report import Row
from benchmarks.shapes import shape_config
from model.config import ModelConfig
from model.network.operations import TorchOperations

if TYPE_CHECKING:
    from model.kernels.triton_attention import Tile, TritonPlan

CALLS = 20
"""Of a piece in one graph: as in a step, one after the other."""
BEYOND_CACHES = 200 << 20
"""Bytes of keys and values at least, so that none of them comes from a cache of the GPU."""
NAMES = ("add_norm_torch_us", "add_norm_us", "write_torch_us", "write_us", "gelu_apart_us", "gelu_in_product_us")


def microseconds(context: Context, *works: Callable[[], object]) -> float:
    """Of one call among many, which take turns."""
    if context.device.type != "cuda":
        return 1e6 * launch_seconds(works[:1], context.device, tries=1)
    return 1e6 * launch_seconds([works[number % len(works)] for number in range(CALLS)], context.device)


@torch.inference_mode()
def attention(context: Context) -> Found:
    """Attention by the shape of its tiles: microseconds, and bytes of keys and values a second where it decodes."""
    try:
        from model.kernels.triton_attention import Tile
    except ImportError as error:
        raise Skip(f"needs the package triton: {error}") from error
    tiles = [Tile(64), Tile(64, keys=32), Tile(64, warps=8), Tile(128, warps=8)]
    tiles = [*tiles, Tile(128, keys=128, warps=8, stages=2)] if context.device.type == "cuda" else tiles[:2]
    rows: list[Row] = [("sequences", "chosen, us", *(f"{t.rows} x {t.keys}, {t.warps}/{t.stages}" for t in tiles))]
    metrics: dict[str, Any] = {}
    for count, new, before in context.sizes.attended:
        name = f"{count} of {new} new, {before}"
        found = _attended(context, count, new, before, tiles)
        metrics |= {
            f"{name}, {tile}": error for tile, error in zip(tiles, found[1:], strict=True) if isinstance(error, str)
        }
        chosen = found[0]
        assert isinstance(chosen, float)
        metrics[f"{name}, us"] = chosen
        if new == 1:
            read = 2 * count * before * context.sizes.width * context.dtype.itemsize
            metrics[f"{name}, percent_of_copy"] = 100 * read / chosen * 1e6 / context.limits.copy_bytes_per_s
        rows.append((name, *(us if isinstance(us, str) else f"{us:.1f}" for us in found)))
    return Found(metrics, rows)


def _attended(context: Context, count: int, new: int, before: int, tiles: Sequence[Tile]) -> list[float | str]:
    """Microseconds of the tile that is chosen, and of each of these, or the error of those that do not run."""
    from model.kernels.triton_attention import TritonAttention, TritonPlan

    sizes, device = context.sizes, context.device
    batch = batch_of([(new, before)] * count, np.random.default_rng(0))
    queries = torch.randn(count * new, sizes.heads, sizes.width, device=device).to(context.dtype)
    blocks = int(batch.block_tables.max()) + 1
    layer = 2 * blocks * BLOCK * sizes.width * context.dtype.itemsize
    layers = min(CALLS, 1 + (BEYOND_CACHES if device.type == "cuda" else 0) // layer)
    caches = [torch.randn(2, blocks, BLOCK, 1, sizes.width, device=device).to(context.dtype) for _ in range(layers)]
    ours = TritonAttention(sizes.heads, device)

    def plan(tile: Tile | None) -> TritonPlan:
        return ours.plan(batch) if tile is None else TritonPlan.of(batch, sizes.heads, device, ours.programs, tile=tile)

    found: list[float | str] = []
    for tile in (None, *tiles):
        try:
            attend = plan(tile).attend
            found.append(microseconds(context, *(partial(attend, queries, cache, 0.1) for cache in caches)))
        except Exception as error:  # too much shared memory, say: the others are wanted all the same
            found.append(type(error).__name__)
    return found


@torch.inference_mode()
def between_products(context: Context) -> Found:
    """Ours beside PyTorch's, microseconds, by rows."""
    model = ModelConfig.model_validate(shape_config(context.shape))
    outputs, inputs = layer_sizes(model)["c_fc"]
    weight = torch.randn(outputs, inputs, device=context.device).to(context.dtype) / inputs**0.5
    bias = torch.randn(outputs, device=context.device).to(context.dtype)
    rows: list[Row] = [
        ("rows", "add, norm: PyTorch", "ours", "write: PyTorch", "ours", "c_fc, GELU: apart", "in the product")
    ]
    metrics: dict[str, float] = {}
    for count in context.sizes.products:
        found = [microseconds(context, work) for work in _works(context, model, count, weight, bias)]
        rows.append((str(count), *(f"{us:.1f}" for us in found)))
        metrics |= {f"{count} rows, {name}": us for name, us in zip(NAMES, found, strict=True)}
    return Found(metrics, rows)


@torch.inference_mode()
def few_rows(context: Context) -> Found:
    """Products of a few rows, by PyTorch and by our kernel in several shapes: microseconds, weights from memory."""
    try:
        from model.kernels import triton_gemv
        from model.kernels.triton_gemv import Tile
    except ImportError as error:
        raise Skip(f"needs the package triton: {error}") from error
    gpu = context.device.type == "cuda"
    tiles = [Tile(), Tile(depth=128, stages=6), Tile(warps=1), Tile(depth=512, stages=3), Tile(depth=128, warps=1)]
    tiles += [Tile(32, 256), Tile(32, 128, stages=5), Tile(64, 128, 4), Tile(32, 128, 4, 5)]
    tiles = tiles if gpu else tiles[:1]
    head = ("layer", "rows", "PyTorch", *(f"{t.outputs} x {t.depth}, {t.warps}/{t.stages}" for t in tiles))
    table: list[Row] = [head]
    metrics: dict[str, Any] = {}
    layers = list(layer_sizes(ModelConfig.model_validate(shape_config(context.shape))).items())
    for layer, (outputs, inputs) in layers if gpu else layers[:1]:
        size = outputs * inputs * context.dtype.itemsize
        copies = 1 + (BEYOND_CACHES if gpu else 0) // size
        weights = [torch.randn(outputs, inputs, device=context.device).to(context.dtype) for _ in range(copies)]
        bias = torch.randn(outputs, device=context.device).to(context.dtype)
        for count in (rows for rows in context.sizes.products if rows <= triton_gemv.MOST_ROWS):
            x = torch.randn(count, inputs, device=context.device).to(context.dtype)
            found = [microseconds(context, *(partial(F.linear, x, weight, bias) for weight in weights))]
            exact = F.linear(x, weights[0], bias).float()
            row = [layer, str(count), f"{found[0]:.1f}"]
            for tile in tiles:
                try:
                    off = (triton_gemv.multiply(x, weights[0], bias, tile=tile).float() - exact).norm() / exact.norm()
                    works = [partial(triton_gemv.multiply, x, weight, bias, tile=tile) for weight in weights]
                    us = microseconds(context, *works) if off < 1e-2 else float("inf")
                    row.append(f"{us:.1f}" if off < 1e-2 else f"off by {off:.1g}")
                    found.append(us)
                except Exception as error:  # of one shape: the others are wanted all the same
                    row.append(type(error).__name__)
            table.append(tuple(row))
            metrics[f"{layer}, {count} rows, best_us"] = min(found)
            metrics[f"{layer}, {count} rows, pytorch_us"] = found[0]
    return Found(metrics, table)


def _works(
    context: Context, model: ModelConfig, count: int, weight: torch.Tensor, bias: torch.Tensor
) -> list[Callable[[], object]]:
    """What NAMES says, for so many rows."""
    try:
        from model.kernels.triton_operations import TritonOperations
    except ImportError as error:
        raise Skip(f"needs the package triton: {error}") from error
    options: dict[str, Any] = {"device": context.device, "dtype": context.dtype}
    norm = nn.LayerNorm(model.n_embd, **options)
    x, more = torch.randn(2, count, model.n_embd, device=context.device).to(context.dtype)
    qkv = torch.randn(count, model.n_head + 2, model.head_dim, device=context.device).to(context.dtype)
    slots = torch.arange(count, device=context.device) * BLOCK
    cache = torch.zeros(2, count, BLOCK, 1, model.head_dim, **options)
    kinds = (TorchOperations(), TritonOperations())
    return [
        *(partial(operations.add_norm, x, more, norm) for operations in kinds),
        *(partial(operations.write, cache, qkv, slots) for operations in kinds),
        lambda: F.gelu(F.linear(x, weight, bias), approximate="tanh"),
        lambda: torch._addmm_activation(bias, x, weight.t(), use_gelu=True),
    ]
