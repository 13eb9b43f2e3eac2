"""Which tile a product with 8-bit weights takes: the one place where it is chosen.

`python -m benchmarks linear --tiles` times others on a GPU. They are compiled at the start, all that may be needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

ROW_CLASSES = (8, 16, 32, 64, 128, 256)
"""The most rows of each class; one class has one tile for each kind of layer."""
MOST_ROWS = ROW_CLASSES[-1]
"""Beyond these rows a product is bound by arithmetic: weights are widened in memory and cuBLAS multiplies."""
MOST_ROWS_BESIDE_FP8 = 32
"""The same where the GPU multiplies fp8 by fp8: on an H100 that is faster from here on, at 256 rows three times."""
LARGE = 1 << 26
"""Weights of a layer from which it is large: those of StarCoder's MLP and its head, on one GPU."""
LONGEST_SPLIT = 8


@dataclass(frozen=True)
class Tile:
    """What one program computes: `blocks` times `rows` times `outputs` results, `depth` inputs at a time.

    stages: such steps on their way, in shared memory, at most 99 KiB of it, as other GPUs than H100s have. warps: 1 or
    2 multiply by instructions of a warp, 4 or 8 by Hopper's for four warps (`by_four_warps`). blocks: 1 or 2; the
    second takes the weights as the first one widened them. resident: programs that a multiprocessor should be given;
    inputs are split until it has so many. joins: the last program to finish its part of the inputs adds up all, else
    another kernel does.
    """

    rows: int
    outputs: int
    depth: int
    stages: int
    warps: int
    resident: int = 3
    blocks: int = 1
    joins: bool = True

    @classmethod
    def of(cls, rows: int, dtype: torch.dtype, weight: torch.Tensor) -> Tile:
        """For so many rows of x of this type."""
        return _tables(dtype, weight.dtype)[weight.numel() >= LARGE][row_class(rows)]

    @property
    def by_four_warps(self) -> bool:
        """Whether a Hopper GPU multiplies by its instructions for four warps."""
        return self.warps % 4 == 0 and self.outputs >= 64 and self.rows >= 16

    @property
    def most_registers(self) -> int:
        """Of a thread, so that as many programs are resident: a multiprocessor has 64 Ki of them."""
        return min(255, (1 << 16) // (self.resident * self.warps * 32) // 8 * 8)

    def splits(self, rows: int, outputs: int, inputs: int, programs: int) -> int:
        """Parts of the inputs, the same for all rows of a class; programs: that give each multiprocessor one."""
        tiles = -(-row_class(rows) // (self.rows * self.blocks)) * -(-outputs // self.outputs)
        wanted = max(1, round(self.resident * programs / tiles))
        return min(wanted, -(-inputs // self.depth), LONGEST_SPLIT)


_LEAST = Tile(16, 32, 64, stages=4, warps=4, resident=1)
_FLOAT32 = {most: _LEAST if most <= 16 else replace(_LEAST, rows=32, outputs=64) for most in ROW_CLASSES}
_LARGE = {
    8: Tile(8, 64, 128, stages=5, warps=4),
    16: Tile(16, 32, 128, stages=5, warps=2, resident=6),
    32: Tile(32, 64, 128, stages=4, warps=2),
    64: Tile(64, 128, 64, stages=4, warps=8),
    128: Tile(128, 64, 64, stages=3, warps=4),
    256: Tile(128, 64, 64, stages=3, warps=4),
}
"""The fastest on an H100 (benchmarks/results/gpu-h100-tiles.json), for both kinds of weights."""
_SMALL = {
    **_LARGE,
    16: Tile(16, 32, 256, stages=4, warps=2),
    64: Tile(32, 64, 64, stages=5, warps=2, blocks=2),
    128: Tile(64, 128, 64, stages=4, warps=8),
}
_TILES = {torch.int8: (_SMALL, _LARGE), torch.float8_e4m3fn: (_SMALL, _LARGE)}
"""By the weights' kind, whether a layer is large, and the class of rows."""


def tiles(dtype: torch.dtype, kind: torch.dtype) -> list[Tile]:
    """All that products of x of this type with weights of this kind may need."""
    found = [tile for table in _tables(dtype, kind) for tile in table.values()]
    return list(dict.fromkeys(found))


def _tables(dtype: torch.dtype, kind: torch.dtype) -> tuple[dict[int, Tile], dict[int, Tile]]:
    return (_FLOAT32, _FLOAT32) if dtype is torch.float32 else _TILES[kind]


def row_class(rows: int) -> int:
    """The most rows of the class that `rows` belongs to; the last class has all that are more."""
    return next((most for most in ROW_CLASSES if rows <= most), MOST_ROWS)


def class_starts() -> list[int]:
    """The fewest rows of each class."""
    return [1, *(most + 1 for most in ROW_CLASSES[:-1])]
