"""Products with 8-bit weights in Triton: the weights are read as they are stored and widened in registers.

A decode step reads every weight once and does little with it, so halving the bytes nearly halves the time. Weights are
int8 or float8_e4m3fn with one float32 scale for each output; inputs keep their type (W8A16). Both kinds of weights are
exact in bfloat16 and float16, so a product differs from one with the rounded weights only in the order of its sums.

Nothing is added atomically: results do not vary from run to run. Rows do not mix, but how the inputs are split over
programs depends on the tile, which depends on how many rows there are: up to 16, up to 32, or more. Within each of
these kinds a row's result is the same to the last bit, whatever stands beside it; beyond MOST_ROWS cuBLAS decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether the kernels run on a CPU, slowly, as TRITON_INTERPRET=1 asks."""
MOST_ROWS = 256
"""Beyond these rows a product is bound by arithmetic: weights are widened in memory and cuBLAS multiplies. By the data
sheet of an H100: widening moves 5 bytes a weight where the kernel reads 1, and the kernel, at half of cuBLAS's speed,
loses that much at some 400 rows. Not measured yet."""
LONGEST_SPLIT = 8
WARPS = 4


@dataclass(frozen=True)
class Tile:
    """What one program computes: `rows` times `outputs` results, `depth` inputs at a time, `stages` of them on the way.

    The stages fit 99 KiB of shared memory, and on an H100 two programs each of its multiprocessors.
    """

    rows: int
    outputs: int
    depth: int
    stages: int

    @classmethod
    def of(cls, rows: int, dtype: torch.dtype) -> Tile:
        # taller tiles take more outputs too: x is read again for every one of them
        depth = 64 if dtype is torch.float32 else 128
        if rows <= 16:
            return cls(16, 32, depth, stages=6)
        if rows <= 32 or dtype is torch.float32:
            return cls(32, 64, depth, stages=5)
        # fewer inputs at a time: with 128 of them, fp8 weights do not fit the registers of Ada GPUs
        return cls(64, 128, 64, stages=4)


@triton.jit(do_not_specialize=["M", "splits"])
def _multiply(
    x,
    weight,
    scale,
    bias,
    out,
    parts,
    M,
    N,
    K,
    splits,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """One tile of ROWS rows and OUTPUTS outputs over one part of the inputs, WHOLE if that is all of them.

    The weights stand on the left of the product: a Hopper tensor core takes that side from registers, where they are
    widened. Neighbouring programs share the weights, so that several tiles of rows find them in the cache.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    split = tl.program_id(2)
    row_inside = row < M
    output_inside = output < N
    each = tl.cdiv(tl.cdiv(K, DEPTH), splits) * DEPTH
    begin = split * each
    end = tl.minimum(begin + each, K)
    weight_rows = weight + (output.to(tl.int64) * K)[:, None]
    x_rows = x + (row.to(tl.int64) * K)[:, None]
    sums = tl.zeros([OUTPUTS, ROWS], tl.float32)
    for at in range(begin, end, DEPTH):
        column = at + tl.arange(0, DEPTH)
        inside = (column < K)[None, :]
        w = tl.load(weight_rows + column[None, :], mask=output_inside[:, None] & inside, other=0.0)
        rows = tl.load(x_rows + column[None, :], mask=row_inside[:, None] & inside, other=0.0)
        sums = tl.dot(w.to(rows.dtype), tl.trans(rows), sums, input_precision="ieee")
    place = row.to(tl.int64)[None, :] * N + output[:, None]
    live = output_inside[:, None] & row_inside[None, :]
    if WHOLE:
        sums *= tl.load(scale + output, mask=output_inside, other=0.0)[:, None]
        if HAS_BIAS:
            sums += tl.load(bias + output, mask=output_inside, other=0.0).to(tl.float32)[:, None]
        tl.store(out + place, sums.to(out.dtype.element_ty), mask=live)
    else:
        tl.store(parts + split.to(tl.int64) * M * N + place, sums, mask=live)


@triton.jit(do_not_specialize=["M", "splits"])
def _reduce_splits(
    parts,
    scale,
    bias,
    out,
    M,
    N,
    splits,
    HAS_BIAS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """One row's parts added in order, then scale and bias."""
    row = tl.program_id(0).to(tl.int64)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    inside = output < N
    sums = tl.zeros([OUTPUTS], tl.float32)
    for split in range(splits):
        sums += tl.load(parts + (split * M + row) * N + output, mask=inside, other=0.0)
    sums *= tl.load(scale + output, mask=inside, other=0.0)
    if HAS_BIAS:
        sums += tl.load(bias + output, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * N + output, sums.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _widen(weight, scale, out, N, K, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr):
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    column = tl.program_id(1) * DEPTH + tl.arange(0, DEPTH)
    place = (output.to(tl.int64) * K)[:, None] + column[None, :]
    inside = (output < N)[:, None] & (column < K)[None, :]
    scales = tl.load(scale + output, mask=output < N, other=0.0)[:, None]
    values = tl.load(weight + place, mask=inside, other=0.0).to(tl.float32) * scales
    tl.store(out + place, values.to(out.dtype.element_ty), mask=inside)


def multiply(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    programs: int,
    splits: int | None = None,
) -> torch.Tensor:
    """x [M, K] times weight [N, K], int8 or float8_e4m3fn, times scale [N], plus bias [N] -> [M, N] in x's type.

    x is bfloat16, float16 or float32; sums are float32. All are contiguous. splits: parts of the inputs, each for
    programs of their own; None chooses as many as give `programs` of them something to do.
    """
    rows, inputs = x.shape
    outputs = weight.shape[0]
    out = x.new_empty(rows, outputs)
    if rows == 0:
        return out
    tile = Tile.of(rows, x.dtype)
    output_tiles = triton.cdiv(outputs, tile.outputs)
    if splits is None:
        splits = min(max(1, round(programs / output_tiles)), triton.cdiv(inputs, tile.depth), LONGEST_SPLIT)
    parts = x.new_empty(splits, rows, outputs, dtype=torch.float32) if splits > 1 else out
    # where there is no bias, its pointer is not read
    added = scale if bias is None else bias
    _multiply[(triton.cdiv(rows, tile.rows), output_tiles, splits)](
        x,
        weight,
        scale,
        added,
        out,
        parts,
        rows,
        outputs,
        inputs,
        splits,
        HAS_BIAS=bias is not None,
        ROWS=tile.rows,
        OUTPUTS=tile.outputs,
        DEPTH=tile.depth,
        WHOLE=splits == 1,
        num_warps=WARPS,
        num_stages=tile.stages,
    )
    if splits > 1:
        block = 512
        _reduce_splits[(rows, triton.cdiv(outputs, block))](
            parts, scale, added, out, rows, outputs, splits, HAS_BIAS=bias is not None, OUTPUTS=block
        )
    return out


def widen(weight: torch.Tensor, scale: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """weight [N, K] times scale [N], rounded to the type of `out` [N, K], which is filled and returned."""
    outputs, inputs = weight.shape
    tile = {"OUTPUTS": 8, "DEPTH": 512}
    grid = (triton.cdiv(outputs, tile["OUTPUTS"]), triton.cdiv(inputs, tile["DEPTH"]))
    _widen[grid](weight, scale, out, outputs, inputs, **tile)
    return out


def multiply_widened(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, scratch: torch.Tensor
) -> torch.Tensor:
    """What `multiply` computes, for many rows, by weights widened to x's type in `scratch`, K long at least.

    Where the scratch is smaller than the weights, it takes as many outputs at a time as it holds. Widened weights are
    rounded once more, to x's type.
    """
    inputs = x.shape[1]
    outputs = min(len(scratch) // inputs, weight.shape[0])
    pieces = []
    for first in range(0, weight.shape[0], outputs):
        piece = slice(first, min(first + outputs, weight.shape[0]))
        room = scratch[: (piece.stop - first) * inputs].view(-1, inputs)
        wide = widen(weight[piece], scale[piece], room)
        pieces.append(F.linear(x, wide, None if bias is None else bias[piece]))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)


def multiply_fp8(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """What `multiply` computes, for many rows, with x rounded to fp8 as well, each row by its largest value.

    x [M, K] bfloat16, weight [N, K] float8_e4m3fn, K and N multiples of 16. PyTorch's product with row scales runs on
    Hopper GPUs, and on a CPU slowly.
    """
    largest = torch.linalg.vector_norm(x, torch.inf, dim=1, keepdim=True)
    scales = (largest.float() / torch.finfo(torch.float8_e4m3fn).max).clamp_min(1e-30)
    narrow = (x / scales).to(torch.float8_e4m3fn)
    return torch._scaled_mm(narrow, weight.t(), scale_a=scales, scale_b=scale[None, :], bias=bias, out_dtype=x.dtype)
