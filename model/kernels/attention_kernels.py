"""The device's side of `triton_attention`: what one program computes.

Whatever changes from step to step is an argument at run time, and Triton is told not to specialise on its value: all
variants of a model are compiled when it starts (`triton_check`), none while it serves.

STRIPES above 1: the cache holds one of so many tokens of a sequence, from number `stripe` on, and what a row finds
there is a part of its softmax (`model.network.stripes`). All heads of the ranks that share the cache are attended to;
queries and parts are laid out by rank: [STRIPES, tokens, heads of a rank, width].
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _kept(tokens, stripe, STRIPES: tl.constexpr):
    """How many of a sequence's first `tokens` tokens this cache holds."""
    if STRIPES > 1:
        tokens = (tokens + (STRIPES - 1) - stripe) // STRIPES
    return tokens


@triton.jit
def _visible(context, count, first, tile_rows, heads, stripe, STRIPES: tl.constexpr):
    """Of a sequence's context, what the last row of the tile that begins with row `first` sees; no row sees more."""
    seen = tl.minimum(context, context - count + (first + tile_rows - 1) // heads + 1)
    return _kept(seen, stripe, STRIPES)


@triton.jit
def _out_row(token, head, tokens, heads, STRIPES: tl.constexpr):
    """Where a token's head lies, among all heads of the token or among those of its rank."""
    if STRIPES > 1:
        own = heads // STRIPES
        row = (head // own * tokens + token) * own + head % own
    else:
        row = token * heads + head
    return row


@triton.jit
def _store(out, lses, row, live, sums, top, total, WIDTH: tl.constexpr, OUT_WIDTH: tl.constexpr):
    """Normalised sums and, where rows have room, in their last 4 bytes the logarithm of what they were divided by."""
    some = tl.where(total == 0.0, 1.0, total)
    place = out + row[:, None] * OUT_WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(place, (sums / some[:, None]).to(out.dtype.element_ty), mask=live[:, None])
    if OUT_WIDTH > WIDTH:
        words: tl.constexpr = OUT_WIDTH * out.dtype.element_ty.primitive_bitwidth // 32
        # of a row that has seen nothing the top, and so this, is minus infinity
        tl.store(lses + row * words + (words - 1), (top + tl.log2(some)) * 0.6931471805599453, mask=live)


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


@triton.jit(do_not_specialize=["table_stride", "heads", "row_heads", "splits", "tokens", "stripe"])
def attend(
    queries,
    keys,
    values,
    out,
    lses,
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
    tokens,
    stripe,
    scale,
    WIDTH: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WHOLE: tl.constexpr,
    STRIPES: tl.constexpr,
):
    """One tile of ROWS (token, head) rows of a sequence over one part of its context, WHOLE if that is all of it.

    row_heads: heads that a token's row of the queries holds, those that are no queries counted. scale includes log2(e).
    OUT_WIDTH: values in a row of `out`, of which `lses` is the same in float32.
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
    last_seen = _kept(context - count + token + 1, stripe, STRIPES) - 1
    column = tl.arange(0, WIDTH)
    row = _out_row(start + token, rows % heads, tokens, heads, STRIPES)

    visible = _visible(context, count, first, ROWS, heads, stripe, STRIPES)
    each = _keys_of_part(visible, splits, KEYS)
    begin = split * each
    end = tl.minimum(begin + each, visible)
    if begin < end:  # there may be more parts than tiles of keys
        q_row = row if STRIPES > 1 else (start + token) * row_heads + rows % heads
        q = tl.load(queries + q_row[:, None] * WIDTH + column[None, :], mask=live[:, None], other=0.0)
        top = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        sums = tl.zeros([ROWS, WIDTH], tl.float32)
        table = tables + sequence * table_stride
        # what every row sees: nothing of it has to be masked
        seen = tl.minimum(end, _kept(context - count + first // heads + 1, stripe, STRIPES))
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
            _store(out, lses, row, live, sums, top, total, WIDTH, OUT_WIDTH)
        else:
            part = (tile * splits + split) * ROWS + tl.arange(0, ROWS)
            tl.store(part_sums + part[:, None] * WIDTH + column[None, :], sums)
            tl.store(part_tops + part, top)
            tl.store(part_totals + part, total)
    elif WHOLE and STRIPES > 1:
        nothing = tl.zeros([ROWS], tl.float32)
        no_sums = tl.zeros([ROWS, WIDTH], tl.float32)
        _store(out, lses, row, live, no_sums, nothing + float("-inf"), nothing, WIDTH, OUT_WIDTH)


@triton.jit(do_not_specialize=["heads", "tile_rows", "splits", "tokens", "stripe"])
def combine_splits(
    out,
    lses,
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
    tokens,
    stripe,
    WIDTH: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    KEYS: tl.constexpr,
    ROWS: tl.constexpr,
    STRIPES: tl.constexpr,
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
        visible = _visible(tl.load(context_lens + sequence), count, first, tile_rows, heads, stripe, STRIPES)
        each = _keys_of_part(visible, splits, KEYS)
        if STRIPES > 1:  # there may be nothing to see
            each = tl.maximum(each, 1)
        existing = tl.cdiv(visible, each)
        column = tl.arange(0, WIDTH)
        top = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        sums = tl.zeros([ROWS, WIDTH], tl.float32)
        for split in range(existing):
            part = (tile * splits + split) * tile_rows + offset
            part_top = tl.load(part_tops + part)
            new_top = tl.maximum(top, part_top)
            # every row sees the first key, so what is largest is finite from the first part on
            finite = new_top
            if STRIPES > 1:  # unless another rank has that key
                finite = tl.where(new_top == float("-inf"), 0.0, new_top)
            shrink = tl.exp2(top - finite)
            share = tl.exp2(part_top - finite)
            total = total * shrink + tl.load(part_totals + part) * share
            more = tl.load(part_sums + part[:, None] * WIDTH + column[None, :])
            sums = sums * shrink[:, None] + more * share[:, None]
            top = new_top
        row = _out_row(tl.load(query_starts + sequence) + token, rows % heads, tokens, heads, STRIPES)
        _store(out, lses, row, live, sums, top, total, WIDTH, OUT_WIDTH)


@triton.jit(do_not_specialize=["rows"])
def join_stripes(parts, lses, out, rows, WIDTH: tl.constexpr, PART_WIDTH: tl.constexpr, STRIPES: tl.constexpr):
    """One row of `out` from its parts [STRIPES, rows, PART_WIDTH], each weighed by what it was divided by.

    lses: the parts in float32, of which the last in a row is the logarithm of that.
    """
    row = tl.program_id(0)
    column = tl.arange(0, WIDTH)
    words: tl.constexpr = PART_WIDTH * parts.dtype.element_ty.primitive_bitwidth // 32
    # the first rank keeps the first token, which every row sees: that part is never empty
    top = tl.load(lses + row * words + (words - 1))
    total = 1.0
    sums = tl.load(parts + row * PART_WIDTH + column).to(tl.float32)
    for stripe in tl.static_range(1, STRIPES):
        part = stripe * rows + row
        lse = tl.load(lses + part * words + (words - 1))
        new_top = tl.maximum(top, lse)
        shrink = tl.exp(top - new_top)
        share = tl.exp(lse - new_top)
        total = total * shrink + share
        sums = sums * shrink + tl.load(parts + part * PART_WIDTH + column).to(tl.float32) * share
        top = new_top
    tl.store(out + row * WIDTH + column, (sums / total).to(out.dtype.element_ty))
