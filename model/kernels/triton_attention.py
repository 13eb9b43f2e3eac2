"""Paged multi-query attention in Triton: one kernel for decodes and prefill chunks.

The query heads of a multi-query model share their keys, so the (token, head) pairs of a sequence are the rows of one
matrix, and decoding is a matrix product too: 48 heads fill a tile of tensor-core size. Where few sequences run, their
contexts are split over more programs and the parts joined (Flash-Decoding, Dao et al. 2023); softmax is formed tile by
tile (FlashAttention-2, arXiv:2307.08691). `attention.attend_reference` is what it is tested against.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import triton

from model.batch import Batch
from model.config import ModelConfig
from model.device import programs_of, to_device
from model.kernels.attention_kernels import attend, combine_splits
from model.kernels.mixed_graphs import Layout
from model.network.stripes import Stripe

LONGEST_SPLIT = 32
COMBINED_ROWS = 8
"""Rows of a tile whose parts one program joins."""
INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether the kernels run on a CPU, slowly, as TRITON_INTERPRET=1 asks."""
WIDEST = {2: 128, 4: 32}
"""Widest heads of a GPU's kernels, by bytes of a value: wider ones keep their sums in memory, 16 KB a thread for 128
in float32 (compiled for compute capability 9.0)."""
FEWEST_KEYS = 256
"""A part of a context is never shorter than this: joining would cost more than it gains."""
EVERY_TOKEN = Stripe()


@dataclass(frozen=True)
class Tile:
    """rows: (token, head) rows of a sequence that a program takes. keys: that it multiplies them with at once.

    warps of the program; stages: of how many tiles of keys it loads at once.
    """

    rows: int
    keys: int = 64
    warps: int = 4
    stages: int = 3


TILES = (Tile(16), Tile(32), Tile(64))
"""By rows; the last one for all that have more. On an H100, tiles of 128 rows gain 4 % in a prompt of 8,192 tokens, and
lose wherever fewer tokens are new (benchmarks/results/gpu-h100-pieces.json)."""


@dataclass(frozen=True)
class TritonPlan:
    """What every layer's call needs to know of a step; built once a step.

    slots [T]: block * block_size + offset. splits: parts of every context.
    tile_sequences, tile_firsts [tiles]: each tile's sequence and first row.
    query_starts, query_lens, context_lens [S]; tables [S, n].
    """

    slots: torch.Tensor
    tile: Tile
    splits: int
    tile_sequences: torch.Tensor
    tile_firsts: torch.Tensor
    query_starts: torch.Tensor
    query_lens: torch.Tensor
    context_lens: torch.Tensor
    tables: torch.Tensor

    @classmethod
    def of(
        cls,
        batch: Batch,
        heads: int,
        device: torch.device,
        programs: int,
        splits: int | None = None,
        tile: Tile | None = None,
    ) -> TritonPlan:
        """programs: how many the device runs at once. splits: None chooses as many parts as keep it busy."""
        tile = tile or tile_of(heads * int(batch.query_lens.max()))
        sequences, firsts = cut(batch.query_lens, heads, tile.rows)
        if splits is None:
            useful = max(1, int(batch.context_lens.max()) // FEWEST_KEYS)
            splits = parts(len(sequences), programs, useful)
        starts = np.cumsum(batch.query_lens) - batch.query_lens

        def on_device(values: np.ndarray) -> torch.Tensor:
            return to_device(values.astype(np.int32), device)

        return cls(
            to_device(batch.slots, device),
            tile,
            splits,
            *map(on_device, (sequences, firsts, starts, batch.query_lens, batch.context_lens, batch.block_tables)),
        )

    @classmethod
    def of_decodes(
        cls,
        slots: torch.Tensor,
        contexts: torch.Tensor,
        tables: torch.Tensor,
        heads: int,
        programs: int,
        longest: int,
    ) -> TritonPlan:
        """Of a step that is recorded: one query a sequence.

        slots [S] int64, contexts [S] and tables [S, n], int32, may change later.

        longest: tokens of the longest context there can be; a part that has nothing to do costs next to nothing.
        """
        size, device = len(contexts), contexts.device
        tile = tile_of(heads)
        tiles = -(-heads // tile.rows)
        every = torch.arange(size, dtype=torch.int32, device=device)
        return cls(
            slots,
            tile,
            parts(size * tiles, programs, max(1, longest // FEWEST_KEYS)),
            every.repeat_interleave(tiles),
            torch.arange(tiles, dtype=torch.int32, device=device).repeat(size) * tile.rows,
            every,
            torch.ones_like(every),
            contexts,
            tables,
        )

    @classmethod
    def of_layout(cls, layout: Layout, tile: Tile, programs: int, longest: int) -> TritonPlan:
        """Of a step that is recorded, whatever its sequences. longest: as of `of_decodes`."""
        splits = parts(layout.tiles.shape[1], programs, max(1, longest // FEWEST_KEYS))
        tile_sequences, tile_firsts = layout.tiles
        starts, lens, contexts = layout.sequences
        return cls(layout.slots, tile, splits, tile_sequences, tile_firsts, starts, lens, contexts, layout.tables)

    def attend(self, queries: torch.Tensor, cache: torch.Tensor, scale: float) -> torch.Tensor:
        """queries [T, heads, head_dim], cache [2, blocks, block_size, 1, head_dim] -> [T, heads, head_dim].

        head_dim is a power of two, 16 at least. Queries that are part of wider rows are read where they are.
        """
        width = queries.shape[2]
        if queries.stride(1) != width or queries.stride(2) != 1 or queries.stride(0) % width:
            queries = queries.contiguous()
        out = queries.new_empty(queries.shape)
        self.launch(queries, cache, scale, out, queries.stride(0) // width)
        return out

    def launch(
        self,
        queries: torch.Tensor,
        cache: torch.Tensor,
        scale: float,
        out: torch.Tensor,
        row_heads: int,
        stripe: Stripe = EVERY_TOKEN,
    ) -> None:
        """Attend into `out`. row_heads: how many heads there are from one token's queries to the next one's.

        Of a striped cache queries are [stripes, T, heads, head_dim] of all ranks, contiguous, and `out` is their
        `empty_parts`.
        """
        tokens, own_heads, width = queries.shape[-3:]
        heads = own_heads * stripe.count
        lses = out if stripe.count == 1 else out.view(torch.float32)
        tiles, whole = len(self.tile_sequences), self.splits == 1
        parts = 0 if whole else tiles * self.splits * self.tile.rows
        sums = torch.empty(parts, width, dtype=torch.float32, device=queries.device)
        tops, totals = torch.empty(2, parts, dtype=torch.float32, device=queries.device)
        where = (self.tile_sequences, self.tile_firsts, self.query_starts, self.query_lens, self.context_lens)
        attend[(tiles, self.splits)](
            queries,
            cache[0],
            cache[1],
            out,
            lses,
            sums,
            tops,
            totals,
            *where,
            self.tables,
            self.tables.shape[1],
            heads,
            row_heads,
            self.splits,
            tokens,
            stripe.own,
            scale * 1.4426950408889634,
            WIDTH=width,
            OUT_WIDTH=out.shape[-1],
            BLOCK_SIZE=cache.shape[2],
            ROWS=self.tile.rows,
            KEYS=self.tile.keys,
            WHOLE=whole,
            STRIPES=stripe.count,
            num_warps=self.tile.warps,
            num_stages=self.tile.stages,
        )
        if not whole:
            combine_splits[(tiles, self.tile.rows // COMBINED_ROWS)](
                out,
                lses,
                sums,
                tops,
                totals,
                *where,
                heads,
                self.tile.rows,
                self.splits,
                tokens,
                stripe.own,
                WIDTH=width,
                OUT_WIDTH=out.shape[-1],
                KEYS=self.tile.keys,
                ROWS=COMBINED_ROWS,
                STRIPES=stripe.count,
            )


class TritonAttention:
    """The kernels on one device, for a rank's share of the query heads. `obstacle` says where they do not run."""

    def __init__(self, heads: int, device: torch.device) -> None:
        self._heads, self._device = heads, device
        self.programs = programs_of(device) * (2 if device.type == "cuda" else 1)

    def plan(self, batch: Batch) -> TritonPlan:
        return TritonPlan.of(batch, self._heads, self._device, self.programs)

    def plan_decodes(
        self, slots: torch.Tensor, contexts: torch.Tensor, tables: torch.Tensor, longest: int
    ) -> TritonPlan:
        """For decodes whose slots [S], contexts [S] and block tables [S, n] change later, up to `longest` tokens."""
        return TritonPlan.of_decodes(slots, contexts, tables, self._heads, self.programs, longest)

    # as `mixed_graphs.Planner` has it

    def cut(
        self, query_lens: npt.NDArray[np.int64], tokens: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        return cut(query_lens, self._heads, self._tile(tokens).rows)

    def most_tiles(self, tokens: int, sequences: int) -> int:
        return most_tiles(tokens, sequences, self._heads, self._tile(tokens).rows)

    def plan_layout(self, layout: Layout, tokens: int, longest: int) -> TritonPlan:
        return TritonPlan.of_layout(layout, self._tile(tokens), self.programs, longest)

    def _tile(self, tokens: int) -> Tile:
        return tile_of(self._heads * tokens)


def obstacle(model: ModelConfig, device: torch.device, dtype: torch.dtype) -> str | None:
    """What keeps the kernels from this model, device or type of keys and values, or None."""
    if device.type == "cpu" and not INTERPRETED:
        return "needs a GPU (or TRITON_INTERPRET=1, for tests)"
    if not model.multi_query or model.head_dim < 16 or model.head_dim & (model.head_dim - 1):
        return (
            "needs a multi-query model whose heads are 16, 32, 64, ... wide; "
            f"here multi_query={model.multi_query}, head_dim={model.head_dim}"
        )
    widest = WIDEST[dtype.itemsize]
    if device.type == "cuda" and model.head_dim > widest:
        return (
            f"has no room in a GPU's registers for heads wider than {widest} in {str(dtype).removeprefix('torch.')}; "
            f"here head_dim={model.head_dim}"
        )
    return None


def cut(
    query_lens: npt.NDArray[np.int64], heads: int, rows: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sequence and first row of each tile of so many rows, of sequences with so many new tokens [S]."""
    tiles = -(-query_lens * heads // rows)
    sequences = np.repeat(np.arange(len(tiles)), tiles)
    firsts = (np.arange(len(sequences)) - np.repeat(np.cumsum(tiles) - tiles, tiles)) * rows
    return sequences, firsts


def most_tiles(tokens: int, sequences: int, heads: int, rows: int) -> int:
    """That `cut` can make of so many tokens of so many sequences."""
    return sequences + tokens * heads // rows


def tile_of(longest: int) -> Tile:
    """For sequences of at most so many (token, head) rows."""
    return next((tile for tile in TILES if tile.rows >= longest), TILES[-1])


def tiles_of(heads: int) -> list[Tile]:
    """All that `tile_of` says of sequences of `heads` query heads, whatever their number of new tokens."""
    found = (tile_of(heads * tokens) for tokens in range(1, TILES[-1].rows + 1))
    return list(dict.fromkeys(found))


def parts(tiles: int, programs: int, useful: int) -> int:
    """Into how many parts contexts are split, so that `programs` have work."""
    return min(max(1, programs // tiles), useful, LONGEST_SPLIT)
