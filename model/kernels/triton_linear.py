"""Products with 8-bit weights in Triton: the weights are read as they are stored and widened in registers.

A decode step reads every weight once and does little with it, so halving the bytes nearly halves the time. Weights are
int8 or float8_e4m3fn with one float32 scale for each output; inputs keep their type (W8A16). Both kinds of weights are
exact in bfloat16 and float16, so a product differs from one with the rounded weights only in the order of its sums.

Sums are never added atomically: results do not vary from run to run. Rows do not mix, but how the inputs are split over
programs depends on the tile, which depends on how many rows there are: `ROW_CLASSES`. Within each of these a row's
result is the same to the last bit, whatever stands beside it; beyond MOST_ROWS cuBLAS decides.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from model.kernels.linear_tiles import Tile
from model.kernels.rounding import round_rows

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether the kernels run on a CPU, slowly, as TRITON_INTERPRET=1 asks."""


@triton.jit
def _widened(w, dtype: tl.constexpr):
    """8-bit weights as values of x's type, exactly. In bfloat16, four weights of a register become two registers.

    int8: 128 + its low seven bits, less 128, or less 256 if it is negative. fp8: sign, exponent and mantissa at their
    places in a bfloat16, times 2^120, the difference of the exponents' biases, which makes subnormals right as well.
    NVIDIA's own conversion from fp8 to bfloat16 takes three instructions, two of them at a quarter of the pace.
    """
    if dtype == tl.bfloat16:
        if w.dtype == tl.int8:
            wide = tl.inline_asm_elementwise(
                """{
                .reg .b32 low, high, minus, seven, sign;
                mov.b32 minus, 0xbf80bf80;
                prmt.b32 low, $2, 0, 0x4140;
                prmt.b32 high, $2, 0, 0x4342;
                lop3.b32 seven, low, 0x007f007f, 0x43004300, 0xea;
                lop3.b32 sign, low, 0x00800080, 0x43004300, 0xea;
                fma.rn.bf16x2 $0, sign, minus, seven;
                lop3.b32 seven, high, 0x007f007f, 0x43004300, 0xea;
                lop3.b32 sign, high, 0x00800080, 0x43004300, 0xea;
                fma.rn.bf16x2 $1, sign, minus, seven;
                }""",
                "=r,=r,r",
                [w],
                dtype=tl.bfloat16,
                is_pure=True,
                pack=4,
            )
        else:
            wide = tl.inline_asm_elementwise(
                """{
                .reg .b32 low, high, scale, zero, value;
                mov.b32 scale, 0x7b807b80;
                mov.b32 zero, 0x80008000;
                prmt.b32 low, $2, 0, 0x1404;
                prmt.b32 high, $2, 0, 0x3424;
                shr.u32 value, low, 4;
                and.b32 value, value, 0x07f007f0;
                lop3.b32 low, low, 0x80008000, scale, 0xea;
                fma.rn.bf16x2 $0, value, low, zero;
                shr.u32 value, high, 4;
                and.b32 value, value, 0x07f007f0;
                lop3.b32 high, high, 0x80008000, scale, 0xea;
                fma.rn.bf16x2 $1, value, high, zero;
                }""",
                "=r,=r,r",
                [w.to(tl.uint8, bitcast=True)],
                dtype=tl.bfloat16,
                is_pure=True,
                pack=4,
            )
    else:
        wide = w.to(dtype)
    return wide


@triton.jit
def _shuffled(values):
    """[N, K] with each 16 columns in another order, 0 1 4 5 8 9 12 13 and then 2 3 6 7 10 11 14 15.

    A product is the same with both sides shuffled. Hopper's instruction takes two neighbouring columns from a thread,
    and two more eight columns away: shuffled, those are four neighbouring weights, a register as it is loaded.
    """
    n: tl.constexpr = values.shape[0]
    k: tl.constexpr = values.shape[1]
    return tl.reshape(tl.permute(tl.reshape(values, [n, k // 16, 4, 2, 2]), (0, 1, 3, 2, 4)), [n, k])


@triton.jit
def _finish(sums, scale, bias, has_bias, out, place, output, live, output_inside):
    """Sums [OUTPUTS, ROWS] times scale, plus bias where there is one, to their place."""
    sums *= tl.load(scale + output, mask=output_inside, other=0.0)[:, None]
    sums += tl.load(bias + output, mask=output_inside & (has_bias != 0), other=0.0).to(tl.float32)[:, None]
    tl.store(out + place, sums.to(out.dtype.element_ty), mask=live)


@triton.jit
def _join(parts, scale, bias, has_bias, out, place, output, live, output_inside, size, splits):
    """The parts of a tile added in order, by the last program that works on it; size: of one part, M * N."""
    sums = tl.load(parts + place, mask=live, other=0.0, cache_modifier=".cg")
    for split in range(1, splits):
        sums += tl.load(parts + split * size + place, mask=live, other=0.0, cache_modifier=".cg")
    _finish(sums, scale, bias, has_bias, out, place, output, live, output_inside)


@triton.jit(do_not_specialize=["M", "splits", "has_bias"])
def _multiply(
    x,
    weight,
    scale,
    bias,
    out,
    parts,
    finished,
    M,
    N,
    K,
    splits,
    has_bias,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    WHOLE: tl.constexpr,
    JOINS: tl.constexpr,
    SHUFFLED: tl.constexpr,
):
    """One tile of BLOCKS * ROWS rows and OUTPUTS outputs over one part of the inputs, WHOLE if that is all of them.

    The weights stand on the left of the product: a Hopper tensor core takes that side from registers, where they are
    widened. Neighbouring programs share the weights, so that several tiles of rows find them in the cache. finished:
    for each tile how many of its programs have stored their parts, zero before and after. SHUFFLED: inputs are taken in
    the order of `_shuffled`.
    """
    first_row = tl.program_id(0) * (BLOCKS * ROWS)
    row = first_row + tl.arange(0, ROWS)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    split = tl.program_id(2)
    row_inside = row < M
    second_inside = row + ROWS < M
    output_inside = output < N
    each = tl.cdiv(tl.cdiv(K, DEPTH), splits) * DEPTH
    begin = split * each
    end = tl.minimum(begin + each, K)
    weight_rows = weight + (output.to(tl.int64) * K)[:, None]
    x_rows = x + (row.to(tl.int64) * K)[:, None]
    sums = tl.zeros([OUTPUTS, ROWS], tl.float32)
    second_sums = tl.zeros([OUTPUTS, ROWS], tl.float32)
    for at in range(begin, end, DEPTH):
        column = at + tl.arange(0, DEPTH)
        inside = (column < K)[None, :]
        w = tl.load(weight_rows + column[None, :], mask=output_inside[:, None] & inside, other=0.0)
        rows = tl.load(x_rows + column[None, :], mask=row_inside[:, None] & inside, other=0.0)
        wide = _widened(w, rows.dtype)
        if SHUFFLED:
            wide, rows = _shuffled(wide), _shuffled(rows)
        sums = tl.dot(wide, tl.trans(rows), sums, input_precision="ieee")
        if BLOCKS == 2:
            rows = tl.load(x_rows + ROWS * K + column[None, :], mask=second_inside[:, None] & inside, other=0.0)
            if SHUFFLED:
                rows = _shuffled(rows)
            second_sums = tl.dot(wide, tl.trans(rows), second_sums, input_precision="ieee")
    # of 32 bits behind the tile's first row: those of 64 take as many registers again as the sums
    place = tl.arange(0, ROWS)[None, :] * N + output[:, None]
    out += first_row.to(tl.int64) * N
    parts += first_row.to(tl.int64) * N
    live = output_inside[:, None] & row_inside[None, :]
    second_place = place + ROWS * N
    second_live = output_inside[:, None] & second_inside[None, :]
    if WHOLE:
        _finish(sums, scale, bias, has_bias, out, place, output, live, output_inside)
        if BLOCKS == 2:
            _finish(second_sums, scale, bias, has_bias, out, second_place, output, second_live, output_inside)
    else:
        size = M.to(tl.int64) * N
        tl.store(parts + split * size + place, sums, mask=live)
        if BLOCKS == 2:
            tl.store(parts + split * size + second_place, second_sums, mask=second_live)
        if JOINS:
            tl.debug_barrier()  # all of this program has been stored before it is counted
            counter = finished + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
            before = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
            if before == splits - 1:
                tl.store(counter, 0)  # for the next product
                _join(parts, scale, bias, has_bias, out, place, output, live, output_inside, size, splits)
                if BLOCKS == 2:
                    _join(
                        parts,
                        scale,
                        bias,
                        has_bias,
                        out,
                        second_place,
                        output,
                        second_live,
                        output_inside,
                        size,
                        splits,
                    )


@triton.jit(do_not_specialize=["M", "splits", "has_bias"])
def _reduce_splits(
    parts,
    scale,
    bias,
    out,
    M,
    N,
    splits,
    has_bias,
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
    sums += tl.load(bias + output, mask=inside & (has_bias != 0), other=0.0).to(tl.float32)
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
    finished: torch.Tensor | None = None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """x [M, K] times weight [N, K], int8 or float8_e4m3fn, times scale [N], plus bias [N] -> [M, N] in x's type.

    x is bfloat16, float16 or float32; sums are float32. All are contiguous. splits: parts of the inputs, each for
    programs of their own; None chooses as many as give `programs` multiprocessors what the tile asks for. finished:
    int32 zeros (`counters`), which are zeros again when the product is done; None makes some. tile: None chooses one.
    """
    rows, inputs = x.shape
    outputs = weight.shape[0]
    out = x.new_empty(rows, outputs)
    if rows == 0:
        return out
    tile = tile or Tile.of(rows, x.dtype, weight)
    splits = splits or tile.splits(rows, outputs, inputs, programs)
    grid = (triton.cdiv(rows, tile.rows * tile.blocks), triton.cdiv(outputs, tile.outputs), splits)
    parts = x.new_empty(splits, rows, outputs, dtype=torch.float32) if splits > 1 else out
    if finished is None or len(finished) < grid[0] * grid[1]:
        finished = x.new_zeros(grid[0] * grid[1], dtype=torch.int32)
    # where there is no bias, its pointer is not read
    added = x if bias is None else bias
    _multiply[grid](
        x,
        weight,
        scale,
        added,
        out,
        parts,
        finished,
        rows,
        outputs,
        inputs,
        splits,
        int(bias is not None),
        ROWS=tile.rows,
        BLOCKS=tile.blocks,
        OUTPUTS=tile.outputs,
        DEPTH=tile.depth,
        WHOLE=splits == 1,
        JOINS=splits > 1 and tile.joins,
        SHUFFLED=tile.by_four_warps and (INTERPRETED or _is_hopper()),
        num_warps=tile.warps,
        num_stages=tile.stages,
        maxnreg=tile.most_registers if _is_hopper() else None,
    )
    if splits > 1 and not tile.joins:
        block = 512
        _reduce_splits[(rows, triton.cdiv(outputs, block))](
            parts, scale, added, out, rows, outputs, splits, int(bias is not None), OUTPUTS=block
        )
    return out


def _is_hopper() -> bool:
    """Others multiply by instructions of a warp, for which tiles of many rows need more registers."""
    return not INTERPRETED and _is_of_hopper(triton.runtime.driver.active)


@cache
def _is_of_hopper(driver: Any) -> bool:
    return bool(driver.get_current_target().arch == 90)


def counters(device: torch.device) -> torch.Tensor:
    """For `finished`, enough for products of up to 2 million outputs; products that may overlap need their own."""
    return torch.zeros(1 << 16, dtype=torch.int32, device=device)


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


@triton.jit
def _round_to_fp8(x, narrow, scales, K, WIDTH: tl.constexpr):
    """One row, and its scale: its largest value over fp8's largest."""
    row = tl.program_id(0).to(tl.int64)
    x += row * K
    largest = tl.zeros([WIDTH], tl.float32)
    for at in range(0, K, WIDTH):
        column = at + tl.arange(0, WIDTH)
        largest = tl.maximum(largest, tl.abs(tl.load(x + column, mask=column < K, other=0.0).to(tl.float32)))
    scale = tl.maximum(tl.div_rn(tl.max(largest, axis=0), 448.0), 1e-30)
    tl.store(scales + row, scale)
    for at in range(0, K, WIDTH):
        column = at + tl.arange(0, WIDTH)
        values = tl.load(x + column, mask=column < K, other=0.0).to(tl.float32)
        tl.store(narrow + row * K + column, tl.div_rn(values, scale).to(tl.float8e4nv), mask=column < K)


def round_to_fp8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x [M, K] -> what `round_rows` makes of it, in one pass: [M, K] float8_e4m3fn and [M] float32."""
    rows, inputs = x.shape
    narrow = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    scales = x.new_empty(rows, dtype=torch.float32)
    _round_to_fp8[(rows,)](x, narrow, scales, inputs, WIDTH=2048, num_warps=8)
    return narrow, scales


def multiply_fp8(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """What `multiply` computes, for many rows, with x rounded to fp8 as well, each row by its largest value.

    x [M, K] bfloat16, weight [N, K] float8_e4m3fn, K and N multiples of 16. PyTorch's product with row scales runs on
    Hopper GPUs, and on a CPU slowly.
    """
    narrow, scales = round_rows(x, "fp8") if x.device.type == "cpu" else round_to_fp8(x)
    return torch._scaled_mm(
        narrow, weight.t(), scale_a=scales[:, None], scale_b=scale[None, :], bias=bias, out_dtype=x.dtype
    )
