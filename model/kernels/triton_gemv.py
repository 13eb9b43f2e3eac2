"""Products of a few rows with plain weights: as fast as the weights can be read.

Decoding a few sequences, a product is a read of its weights. cuBLAS gives a program 64 outputs or more, which for the
smaller layers of the 15.5B shape are fewer programs than an H100 has multiprocessors. Here programs are small, all of
them run at once, and each adds up its outputs in float32 over the whole input, in order: results do not vary from run
to run. On an H100 each product of a layer takes 4 to 9 % less than by cuBLAS
(benchmarks/results/gpu-h100-pieces.json).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

MOST_ROWS = 16
"""Of a program; more are another product's business. Up to half as many take a tile of half the size."""


@dataclass(frozen=True)
class Tile:
    """outputs: of a program. depth: inputs that it reads at once. warps, stages: as Triton has them."""

    outputs: int = 16
    depth: int = 256
    warps: int = 2
    stages: int = 4


WITH_BIAS = Tile()
WITHOUT_BIAS = Tile(depth=512, stages=3)
"""The fastest for a layer's products and for the head, on an H100 (benchmarks/results/gpu-h100.json)."""


@triton.jit(do_not_specialize=["M", "N"])
def _gemv(
    x,
    weight,
    bias,
    out,
    M,
    N,
    K,
    HAS_BIAS: tl.constexpr,
    GELU_TANH: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
):
    """OUTPUTS outputs of all rows: x [M, K] times weight [N, K], plus bias [N] -> out [M, N]."""
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.arange(0, ROWS)
    output_inside, row_inside = output < N, row < M
    weight_rows = weight + (output.to(tl.int64) * K)[:, None]
    x_rows = x + (row * K)[None, :]
    sums = tl.zeros([OUTPUTS, ROWS], tl.float32)
    for at in tl.range(0, K, DEPTH, num_stages=STAGES):
        column = at + tl.arange(0, DEPTH)
        inside = column < K
        w = tl.load(
            weight_rows + column[None, :],
            mask=output_inside[:, None] & inside[None, :],
            other=0.0,
            eviction_policy="evict_first",
        )
        values = tl.load(x_rows + column[:, None], mask=row_inside[None, :] & inside[:, None], other=0.0)
        sums = tl.dot(w, values, sums, input_precision="ieee")
    if HAS_BIAS:
        sums += tl.load(bias + output, mask=output_inside, other=0.0).to(tl.float32)[:, None]
    if GELU_TANH:
        # tanh(z) = 1 - 2 / (exp(2z) + 1), finite whatever z is
        z = 0.7978845608028654 * (sums + 0.044715 * sums * sums * sums)
        sums = 0.5 * sums * (2.0 - 2.0 / (tl.exp(2.0 * z) + 1.0))
    place = row[None, :] * N + output[:, None]
    tl.store(out + place, sums.to(out.dtype.element_ty), mask=output_inside[:, None] & row_inside[None, :])


def multiply(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    gelu_tanh: bool = False,
    tile: Tile | None = None,
) -> torch.Tensor:
    """x [M, K] times weight [N, K], plus bias [N], then the tanh form of GELU if asked for -> [M, N]; M <= MOST_ROWS.

    All are contiguous and of one type; sums are float32.
    """
    tile = tile or (WITHOUT_BIAS if bias is None else WITH_BIAS)
    rows, inputs = x.shape
    outputs = weight.shape[0]
    out = x.new_empty(rows, outputs)
    _gemv[(triton.cdiv(outputs, tile.outputs),)](
        x,
        weight,
        weight if bias is None else bias,  # where there is none, its pointer is not read
        out,
        rows,
        outputs,
        inputs,
        HAS_BIAS=bias is not None,
        GELU_TANH=gelu_tanh,
        ROWS=MOST_ROWS if rows > MOST_ROWS // 2 else MOST_ROWS // 2,
        OUTPUTS=tile.outputs,
        DEPTH=tile.depth,
        STAGES=tile.stages,
        num_warps=tile.warps,
    )
    return out
