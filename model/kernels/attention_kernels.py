"""The device's side of `triton_attention`: what one program computes.

Whatever changes from step to step is an argument at run time, and Triton is told not to specialise on its value: all
variants of a model are compiled when it starts (`triton_check`), none while it serves.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _visible(context, count, first, tile_rows, heads):
    """Of a sequence's context, what the last row of the tile that begins with row `first` sees; no row sees more."""
    return tl.minimum(context, context - count + (first + tile_rows - 1) // heads + 1)


@triton.jit
def _keys_of_part(visible, splits, KEYS: tl.constexpr):
    return tl.cdiv(tl.cdiv(visible, KEYS), splits) * KEYS


@triton.jit
def _keys(
    q,
    keys,
    values,
    table,
    at,
    end,
    last_seen,
    scale,
    top,
    total,
    sums,
    WIDTH: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    KEYS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Softmax and sums of a tile's rows, with KEYS more keys from `at` on. Not MASKED: every row sees all of them."""
    position = at + tl.arange(0, KEYS)
    column = tl.arange(0, WIDTH)
    inside = position < end
    if MASKED:
        block = tl.load(table + position // BLOCK_SIZE, mask=inside, other=0)
    else:
        block = tl.load(table + position // BLOCK_SIZE)
    # a cache of a small model holds more values than 32 bits count
    slot = block.to(tl.int64) * BLOCK_SIZE + position % BLOCK_SIZE
    offset = slot[:, None] * WIDTH + column[None, :]
    if MASKED:
        k = tl.load(keys + offset, mask=inside[:, None], other=0.0)
        v = tl.load(values + offset, mask=inside[:, None], other=0.0)
    else:
        k = tl.load(keys + offset)
        v = tl.load(values + offset)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if MASKED:
        scores = tl.where(inside[None, :] & (position[None, :] <= last_seen[:, None]), scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, 1))
    finite = new_top
    if MASKED:  # a row that has seen nothing yet would take infinity from infinity
        finite = tl.where(new_top == float("-inf"), 0.0, new_top)
    weights = tl.exp2(scores - finite[:, None])
    shrink = tl.exp2(top - finite)
    sums = tl.dot(weights.to(v.dtype), v, sums * shrink[:, None], input_precision="ieee")
    total = total * shrink + tl.sum(weights, 1)
    return new_top, total, sums


@triton.jit(do_not_specialize=["table_stride", "heads", "row_heads", "splits"])
def attend(
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
    row_heads,
    splits,
    scale,
    WIDTH: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """One tile of ROWS (token, head) rows of a sequence over one part of its context, WHOLE if that is all of it.

    row_heads: heads that a token's row of the queries holds, those that are no queries counted. scale includes log2(e).
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
        q_row = queries + ((start + token) * row_heads + rows % heads)[:, None] * WIDTH
        q = tl.load(q_row + column[None, :], mask=live[:, None], other=0.0)
        top = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        sums = tl.zeros([ROWS, WIDTH], tl.float32)
        table = tables + sequence * table_stride
        # what every row sees: nothing of it has to be masked
        seen = tl.minimum(end, context - count + first // heads + 1)
        tail = begin + tl.maximum(seen - begin, 0) // KEYS * KEYS
        for at in range(begin, tail, KEYS):
            top, total, sums = _keys(
                q, keys, values, table, at, end, last_seen, scale, top, total, sums, WIDTH, BLOCK_SIZE, KEYS, False
            )
        for at in range(tail, end, KEYS):
            top, total, sums = _keys(
                q, keys, values, table, at, end, last_seen, scale, top, total, sums, WIDTH, BLOCK_SIZE, KEYS, True
            )
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
def combine_splits(
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
    ROWS: tl.constexpr,
):
    """The parts of ROWS rows of a tile, each weighed by its share of the softmax; those without keys do not exist."""
    tile = tl.program_id(0)
    offset = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    sequence = tl.load(tile_sequences + tile)
    first = tl.load(tile_firsts + tile)
    count = tl.load(query_lens + sequence)
    rows = first + offset
    token = rows // heads
    live = token < count
    if (first + tl.program_id(1) * ROWS) // heads < count:
        visible = _visible(tl.load(context_lens + sequence), count, first, tile_rows, heads)
        existing = tl.cdiv(visible, _keys_of_part(visible, splits, KEYS))
        column = tl.arange(0, WIDTH)
        top = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        sums = tl.zeros([ROWS, WIDTH], tl.float32)
        for split in range(existing):
            part = (tile * splits + split) * tile_rows + offset
            part_top = tl.load(part_tops + part)
            new_top = tl.maximum(top, part_top)
            # every row sees the first key, so what is largest is finite from the first part on
            shrink = tl.exp2(top - new_top)
            share = tl.exp2(part_top - new_top)
            total = total * shrink + tl.load(part_totals + part) * share
            more = tl.load(part_sums + part[:, None] * WIDTH + column[None, :])
            sums = sums * shrink[:, None] + more * share[:, None]
            top = new_top
        start = tl.load(query_starts + sequence)
        place = out + ((start + token) * heads + rows % heads)[:, None] * WIDTH + column[None, :]
        tl.store(place, (sums / total[:, None]).to(out.dtype.element_ty), mask=live[:, None])
