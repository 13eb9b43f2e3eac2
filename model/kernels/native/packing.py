"""Weights in the layouts of `forward.c`: 16 outputs together, as bfloat16, 16-bit integers in blocks, or 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from model.kernels.native.library import library
from model.kernels.rounding import round_rows

LANES = 16
BLOCK = 64


def pack(weight: torch.Tensor, in_place: bool = False) -> torch.Tensor:
    """[N, K] -> [ceil(N / 16), K / 2, 16, 2] in bfloat16, missing rows zero. K is even.

    in_place: where it can be (contiguous bfloat16, no row missing) the weight's own memory is used, tile by tile: to a
    system that hands out memory in pages of 4 KB, new memory costs more than what is done with it.
    """
    outputs, inputs = weight.shape
    tiles = -(-outputs // LANES)
    rows = weight if outputs % LANES == 0 else torch.nn.functional.pad(weight, (0, 0, 0, tiles * LANES - outputs))
    whole = rows.to(torch.bfloat16).contiguous()
    pairs = whole.view(torch.int32).view(tiles, LANES, inputs // 2)
    out = pairs if in_place and whole.data_ptr() == weight.data_ptr() else torch.empty_like(pairs)
    some = max(1, (1 << 18) // (LANES * inputs))
    for first in range(0, tiles, some):
        part = pairs[first : first + some].transpose(1, 2).contiguous()
        out[first : first + some] = part.view(-1, LANES, inputs // 2)
    return out.view(torch.bfloat16).view(tiles, inputs // 2, LANES, 2)


@dataclass(frozen=True)
class BlockedWeight:
    """As products_int16.h has it: a weight is `data` [ceil(N / 16), K / 2, 16, 2] in int16 times a power of two, whose
    exponent and 127 stand in `exponents` [ceil(N / 16), ceil(K / 64), 16], uint8: one for 64 weights of an output."""

    data: torch.Tensor
    exponents: torch.Tensor


def pack_in_blocks(weight: torch.Tensor, in_place: bool = False) -> BlockedWeight:
    """Round to multiples of a power of two, the least of which 4,095 hold a block's largest weight. K is even.

    in_place: as `pack` has it. Raises AttributeError where the variant of this CPU knows no blocks.
    """
    outputs, inputs = weight.shape
    tiles, blocks = -(-outputs // LANES), -(-inputs // BLOCK)
    reuse = in_place and weight.dtype is torch.bfloat16 and weight.is_contiguous() and outputs % LANES == 0
    data = weight if reuse else torch.zeros(tiles * LANES, inputs, dtype=torch.bfloat16)
    if not reuse:
        data[:outputs] = weight
    exponents = torch.empty(tiles, blocks, LANES, dtype=torch.uint8)
    to_blocks = library().starcoder_to_blocks
    to_blocks(data.data_ptr(), exponents.data_ptr(), len(data), inputs, torch.get_num_threads())
    return BlockedWeight(data.view(torch.int16).view(tiles, inputs // 2, LANES, 2), exponents)


@dataclass(frozen=True)
class Int8Weight:
    """A weight is `data` [ceil(N / 16), K / 4, 16, 4] times its row's scale; shift: 128 times a row's sum of data."""

    data: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor


def pack_int8(weight: torch.Tensor) -> Int8Weight:
    """Round each output's weights to 8 bits by its largest one. K is a multiple of 4."""
    outputs, inputs = weight.shape
    tiles = -(-outputs // LANES)
    data, scale = round_rows(torch.nn.functional.pad(weight, (0, 0, 0, tiles * LANES - outputs)), "int8")
    shift = 128 * data.sum(dim=1, dtype=torch.int32)
    return Int8Weight(
        data.view(tiles, LANES, inputs // 4, 4).permute(0, 2, 1, 3).contiguous(), scale, shift.to(torch.int32)
    )
