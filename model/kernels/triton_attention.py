"""Paged multi-query attention in Triton: one kernel for decodes and prefill chunks.

The query heads of a multi-query model share their keys, so the (token, head) pairs of a sequence are the rows of one
matrix, and decoding is a matrix product too: 48 heads fill a tile of tensor-core size. Where few sequences run, their
contexts are split over more programs and the parts joined (Flash-Decoding, Dao et al. 2023); softmax is formed tile by
tile (FlashAttention-2, arXiv:2307.08691). `attention.attend_reference` is what it is tested against.

Whatever changes from step to step is an argument at run time, and Triton is told not to specialise on its value: all
variants of a model are compiled when it starts (`triton_check`), none while it serves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from model.batch import Batch
from model.config import ModelConfig
from model.device import copy_into, programs_of, to_device

LARGEST_ROWS = 64
KEYS = 64
LONGEST_SPLIT = 32
INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether the kernels run on a CPU, slowly, as TRITON_INTERPRET=1 asks."""
WIDEST = {2: 128, 4: 32}
"""Widest heads of a GPU's kernels, by bytes of a value: wider ones keep their sums in memory, 16 KB a thread for 128
in float32 (compiled for compute capability 9.0)."""
FEWEST_KEYS = 256
"""A part of a context is never shorter than this: joining would cost more than it gains."""


@triton.jit
def _visible(context, count, first, tile_rows, heads):
    """Of a sequence's context, what the last row of the tile that begins with row `first` sees; no row sees more."""
    return tl.minimum(context, context - count + (first + tile_rows - 1) // heads + 1)


@triton.jit
def _keys_of_part(visible, splits, KEYS: tl.constexpr):
    return tl.cdiv(tl.cdiv(visible, KEYS), splits) * KEYS


@triton.jit(do_not_specialize=["table_stride", "heads", "splits"])
def _attend(
    queries,
    keys,
    values,
    out,
    part_sums,
    part_tops,
    part_totals,
    tile_sequences,
    tile_firsts,
    query_starts,
    query_lens,
    context_lens,
    tables,
    table_stride,
    heads,
    splits,
    scale,
    WIDTH: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """One tile of ROWS (token, head) rows of a sequence over one part of its context, WHOLE if that is all of it.

    scale includes log2(e).
    """
    tile = tl.program_id(0)
    split = tl.program_id(1)
    sequence = tl.load(tile_sequences + tile)
    first = tl.load(tile_firsts + tile)
    start = tl.load(query_starts + sequence)
    count = tl.load(query_lens + sequence)
    context = tl.load(context_lens + sequence)
    rows = first + tl.arange(0, ROWS)
    token = rows // heads
    live = token < count
    last_seen = context - count + token
    column = tl.arange(0, WIDTH)
    row_offset = (start + token) * heads + rows % heads

    visible = _visible(context, count, first, ROWS, heads)
    each = _keys_of_part(visible, splits, KEYS)
    begin = split * each
    end = tl.minimum(begin + each, visible)
    if begin < end:  # there may be more parts than tiles of keys
        q = tl.load(queries + row_offset[:, None] * WIDTH + column[None, :], mask=live[:, None], other=0.0)
        top = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        sums = tl.zeros([ROWS, WIDTH], tl.float32)
        for at in range(begin, end, KEYS):
            position = at + tl.arange(0, KEYS)
            inside = position < end
            block = tl.load(tables + sequence * table_stride + position // BLOCK_SIZE, mask=inside, other=0)
            # a cache of a small model holds more values than 32 bits count
            slot = block.to(tl.int64) * BLOCK_SIZE + position % BLOCK_SIZE
            offset = slot[:, None] * WIDTH + column[None, :]
            k = tl.load(keys + offset, mask=inside[:, None], other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            scores = tl.where(inside[None, :] & (position[None, :] <= last_seen[:, None]), scores, float("-inf"))
            new_top = tl.maximum(top, tl.max(scores, 1))
            # a row that has seen nothing yet would take infinity from infinity
            finite = tl.where(new_top == float("-inf"), 0.0, new_top)
            weights = tl.exp2(scores - finite[:, None])
            shrink = tl.exp2(top - finite)
            v = tl.load(values + offset, mask=inside[:, None], other=0.0)
            sums = sums * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
            total = total * shrink + tl.sum(weights, 1)
            top = new_top
        if WHOLE:
            result = sums / tl.where(total == 0.0, 1.0, total)[:, None]
            place = out + row_offset[:, None] * WIDTH + column[None, :]
            tl.store(place, result.to(out.dtype.element_ty), mask=live[:, None])
        else:
            part = (tile * splits + split) * ROWS + tl.arange(0, ROWS)
            tl.store(part_sums + part[:, None] * WIDTH + column[None, :], sums)
            tl.store(part_tops + part, top)
            tl.store(part_totals + part, total)


@triton.jit(do_not_specialize=["heads", "tile_rows", "splits"])
def _combine_splits(
    out,
    part_sums,
    part_tops,
    part_totals,
    tile_sequences,
    tile_firsts,
    query_starts,
    query_lens,
    context_lens,
    heads,
    tile_rows,
    splits,
    WIDTH: tl.constexpr,
    KEYS: tl.constexpr,
    MOST_PARTS: tl.constexpr,
):
    """One row's parts, each weighed by its share of the softmax. Parts that have no keys were not written."""
    tile = tl.program_id(0)
    row = tl.program_id(1)
    sequence = tl.load(tile_sequences + tile)
    first = tl.load(tile_firsts + tile)
    count = tl.load(query_lens + sequence)
    token = (first + row) // heads
    if token < count:
        visible = _visible(tl.load(context_lens + sequence), count, first, tile_rows, heads)
        split = tl.arange(0, MOST_PARTS)
        written = split < tl.cdiv(visible, _keys_of_part(visible, splits, KEYS))
        part = (tile * splits + split) * tile_rows + row
        tops = tl.load(part_tops + part, mask=written, other=float("-inf"))
        # every row sees the first key, so the largest is finite
        share = tl.exp2(tops - tl.max(tops, 0))
        total = tl.sum(tl.load(part_totals + part, mask=written, other=0.0) * share, 0)
        column = tl.arange(0, WIDTH)
        sums = tl.load(part_sums + part[:, None] * WIDTH + column[None, :], mask=written[:, None], other=0.0)
        result = tl.sum(sums * share[:, None], 0) / total
        place = ((tl.load(query_starts + sequence) + token) * heads + (first + row) % heads) * WIDTH + column
        tl.store(out + place, result.to(out.dtype.element_ty))


@dataclass(frozen=True)
class TritonPlan:
    """What every layer's call needs to know of a step; built once a step.

    slots [T]: block * block_size + offset. rows: (token, head) rows of a tile. splits: parts of every context.
    tile_sequences, tile_firsts [tiles]: each tile's sequence and first row.
    query_starts, query_lens, context_lens [S]; tables [S, n].
    """

    slots: torch.Tensor
    rows: int
    splits: int
    tile_sequences: torch.Tensor
    tile_firsts: torch.Tensor
    query_starts: torch.Tensor
    query_lens: torch.Tensor
    context_lens: torch.Tensor
    tables: torch.Tensor

    @classmethod
    def of(cls, batch: Batch, heads: int, device: torch.device, programs: int, splits: int | None = None) -> TritonPlan:
        """programs: how many the device runs at once. splits: None chooses as many parts as keep it busy."""
        rows = rows_of_tile(heads * int(batch.query_lens.max()))
        sequences, firsts = tiles_of(batch.query_lens, heads, rows)
        if splits is None:
            useful = max(1, int(batch.context_lens.max()) // FEWEST_KEYS)
            splits = parts(len(sequences), programs, useful)
        starts = np.cumsum(batch.query_lens) - batch.query_lens

        def on_device(values: np.ndarray) -> torch.Tensor:
            return to_device(values.astype(np.int32), device)

        return cls(
            to_device(batch.slots, device),
            rows,
            splits,
            *map(on_device, (sequences, firsts, starts, batch.query_lens, batch.context_lens, batch.block_tables)),
        )

    def attend(self, queries: torch.Tensor, cache: torch.Tensor, scale: float) -> torch.Tensor:
        """queries [T, heads, head_dim], cache [2, blocks, block_size, 1, head_dim] -> [T, heads, head_dim].

        head_dim is a power of two, 16 at least.
        """
        heads, width = queries.shape[1:]
        queries = queries.contiguous()
        out = torch.empty_like(queries)
        tiles, whole = len(self.tile_sequences), self.splits == 1
        parts = 0 if whole else tiles * self.splits * self.rows
        sums = torch.empty(parts, width, dtype=torch.float32, device=queries.device)
        tops, totals = torch.empty(2, parts, dtype=torch.float32, device=queries.device)
        where = (self.tile_sequences, self.tile_firsts, self.query_starts, self.query_lens, self.context_lens)
        _attend[(tiles, self.splits)](
            queries,
            cache[0],
            cache[1],
            out,
            sums,
            tops,
            totals,
            *where,
            self.tables,
            self.tables.shape[1],
            heads,
            self.splits,
            scale * 1.4426950408889634,
            WIDTH=width,
            BLOCK_SIZE=cache.shape[2],
            ROWS=self.rows,
            KEYS=KEYS,
            WHOLE=whole,
        )
        if not whole:
            _combine_splits[(tiles, self.rows)](
                out,
                sums,
                tops,
                totals,
                *where,
                heads,
                self.rows,
                self.splits,
                WIDTH=width,
                KEYS=KEYS,
                MOST_PARTS=LONGEST_SPLIT,
            )
        return out


@dataclass(frozen=True)
class FixedPlan(TritonPlan):
    """Of a recorded step of T tokens, whose sequences change: whatever `hold` is given, no shape or address does.

    Sequences and tiles are as many as T sequences of one token have; fewer sequences of more tokens have fewer of
    both. where [5, n] int32: what the fields from `tile_sequences` to `context_lens` are the beginnings of.
    """

    heads: int
    spare_block: int
    where: torch.Tensor

    @classmethod
    def of_size(
        cls, slots: torch.Tensor, width: int, spare_block: int, heads: int, programs: int, longest: int
    ) -> FixedPlan:
        """slots [T] int64, which may change later. width: of the block tables.

        spare_block: belongs to no sequence. longest: tokens of the longest context there can be; a part that has
        nothing to do costs next to nothing. Until it is given others it holds T sequences of so many tokens.
        """
        size, device = len(slots), slots.device
        rows = rows_of_tile(heads)
        every = np.arange(size)
        sequences, firsts = tiles_of(np.ones_like(every), heads, rows)
        tiles = len(sequences)
        # each begins at a multiple of 16 bytes, of which Triton's compiler makes use: other places were other variants
        where = np.zeros((5, -(-tiles // 4) * 4), dtype=np.int32)
        where[0, :tiles], where[1, :tiles] = sequences, firsts
        where[2, :size], where[3, :size], where[4, :size] = every, 1, longest
        held = torch.from_numpy(where).to(device, copy=True)
        return cls(
            slots=slots,
            rows=rows,
            splits=parts(tiles, programs, max(1, longest // FEWEST_KEYS)),
            tile_sequences=held[0, :tiles],
            tile_firsts=held[1, :tiles],
            query_starts=held[2, :size],
            query_lens=held[3, :size],
            context_lens=held[4, :size],
            tables=torch.full((size, width), spare_block, dtype=torch.int32, device=device),
            heads=heads,
            spare_block=spare_block,
            where=held,
        )

    def hold(self, batch: Batch) -> None:
        """Take over a batch of at most T tokens. Tokens that fill it up are sequences of their own."""
        size, count, used = len(self.slots), len(batch.query_lens), batch.block_tables.shape[1]
        lens, contexts = np.zeros(size, dtype=np.int64), np.ones(size, dtype=np.int64)
        lens[:count], contexts[:count] = batch.query_lens, batch.context_lens
        lens[count : count + size - len(batch.tokens)] = 1
        where = np.zeros(self.where.shape, dtype=np.int32)
        sequences, firsts = tiles_of(lens, self.heads, self.rows)
        # where there are tiles without work, the last sequence has no token
        where[0] = size - 1
        where[0, : len(sequences)], where[1, : len(sequences)] = sequences, firsts
        where[2, :size], where[3, :size], where[4, :size] = np.cumsum(lens) - lens, lens, contexts
        tables = np.full((size, used), self.spare_block, dtype=np.int32)
        tables[:count] = batch.block_tables
        copy_into(self.where, where)
        copy_into(self.tables[:, :used], tables)


class TritonAttention:
    """The kernels on one device, for a rank's share of the query heads. `obstacle` says where they do not run."""

    def __init__(self, heads: int, device: torch.device) -> None:
        self._heads, self._device = heads, device
        self._programs = programs_of(device) * (2 if device.type == "cuda" else 1)

    def plan(self, batch: Batch) -> TritonPlan:
        return TritonPlan.of(batch, self._heads, self._device, self._programs)

    def plan_of_size(self, slots: torch.Tensor, width: int, spare_block: int, longest: int) -> FixedPlan:
        """For a step that is recorded, as `FixedPlan.of_size` has it."""
        return FixedPlan.of_size(slots, width, spare_block, self._heads, self._programs, longest)


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


def rows_of_tile(longest: int) -> int:
    """Of the (token, head) rows of a sequence, `longest` at most, those that one tile takes."""
    return min(LARGEST_ROWS, max(16, triton.next_power_of_2(longest)))


def tile_sizes(heads: int) -> list[int]:
    """All that `rows_of_tile` says of sequences of `heads` query heads, whatever their number of new tokens."""
    return sorted({rows_of_tile(heads * tokens) for tokens in range(1, LARGEST_ROWS + 1)})


def tiles_of(query_lens: npt.NDArray[np.int64], heads: int, rows: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Of each tile [tiles], its sequence and the first of its (token, head) rows."""
    tiles = -(-query_lens * heads // rows)
    sequences = np.repeat(np.arange(len(tiles)), tiles)
    return sequences, (np.arange(len(sequences)) - np.repeat(np.cumsum(tiles) - tiles, tiles)) * rows


def parts(tiles: int, programs: int, useful: int) -> int:
    """Into how many parts contexts are split, so that `programs` have work."""
    return min(max(1, programs // tiles), useful, LONGEST_SPLIT)
