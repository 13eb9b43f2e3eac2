"""`drawing.choose` in Triton: one launch draws for every row, whatever each asks for, and nothing is sorted.

One program has one row, and reads it several times, mostly from the GPU's second-level cache: once for the largest
logit, once for sums, once for each two bits or so of the logit at which top_k or top_p ends, once to draw. The search
asks how much there is above three values at a time, between the least and the largest logit that come into question;
weights are whole numbers (`drawing.UNIT`), so that every pass finds the same sums, and the definition's.

What a row asks for is an argument at run time: there is one variant for each vocabulary, or two (see `TritonDraw`).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from model.device import to_device
from model.drawing import LEAST, SCALE, TOP_K, TOP_P, UNIFORM, Table

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether the kernels run on a CPU, slowly, as TRITON_INTERPRET=1 asks."""
CHUNKS = 64
"""A row's tokens in order are so many chunks, read side by side: a draw finds its chunk first, and looks only there."""
LANES = 32
"""Tokens of a chunk that are read at a time."""
UNROLL = 4
"""Reads of a chunk that are under way together, since there are not enough warps to hide what each waits."""
WARPS = 32
_COLUMNS = tl.constexpr(5)
_SCALE, _TOP_K, _TOP_P, _LEAST, _UNIFORM = (tl.constexpr(c) for c in (SCALE, TOP_K, TOP_P, LEAST, UNIFORM))
_HALF_UNIT = tl.constexpr(2.0**20)
"""Weights are 2^40 at most, in two steps: GPUs convert to 32 bits fast, and to 64 bits slowly."""
_PASSES = tl.constexpr(200)
"""Of a search, at most: it takes some ten, and 80 where all logits are denormal numbers. A GPU must not hang."""


@triton.jit
def _weight(x, top, scale):
    """`drawing._weights`: exact but for the exponential. x: no NaN, at most top, which is finite."""
    share = tl.exp2((x - top) * scale) * _HALF_UNIT
    high = share.to(tl.int32)
    low = ((share - high.to(tl.float32)) * _HALF_UNIT).to(tl.int32)
    return (high.to(tl.int64) << 20) + low.to(tl.int64)


@triton.jit
def _below_all(top, scale):
    """A logit below the largest, such that it and those below it weigh nothing: 2^-41 of the largest's weight.

    At a tiny temperature that distance would be lost in rounding.
    """
    return top - tl.maximum(41.0 / scale, tl.abs(top) * 2.4e-7 + 1e-37)


@triton.jit
def _bound(
    logits,
    place,
    vocabulary,
    top,
    scale,
    wanted,
    BY_COUNT: tl.constexpr,
    LANES: tl.constexpr,
    STEPS: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """The smallest logit above which less than `wanted` comes together, and what does: tokens BY_COUNT, or weight.

    Above `_below_all` there is `wanted` at least.
    """
    # what is sought is above low, and not above high; above: what is above high
    low = _below_all(top, scale)
    high = top
    above = tl.zeros([], tl.int64)
    start = low
    least = low
    most = top
    passes = 0
    while passes < _PASSES:
        passes += 1
        span = most - start
        t1 = start + 0.25 * span
        t2 = start + 0.5 * span
        t3 = start + 0.75 * span
        kind: tl.constexpr = tl.int32 if BY_COUNT else tl.int64
        sums1 = tl.zeros(place.shape, kind)
        sums2 = tl.zeros(place.shape, kind)
        sums3 = tl.zeros(place.shape, kind)
        leasts = tl.full(place.shape, float("inf"), tl.float32)
        mosts = tl.full(place.shape, float("-inf"), tl.float32)
        for step in tl.range(0, STEPS, loop_unroll_factor=UNROLL):
            at = place + step * LANES
            x = tl.load(logits + at, mask=at < vocabulary, other=float("-inf"))
            amount = 1 if BY_COUNT else _weight(x, top, scale)
            sums1 += tl.where(x > t1, amount, 0)
            sums2 += tl.where(x > t2, amount, 0)
            sums3 += tl.where(x > t3, amount, 0)
            leasts = tl.minimum(leasts, tl.where(x > low, x, float("inf")))
            mosts = tl.maximum(mosts, tl.where(x <= high, x, float("-inf")))
        least = tl.min(leasts)
        most = tl.max(mosts)
        if least == most:
            passes = _PASSES
        else:
            above1 = tl.sum(sums1).to(tl.int64)
            above2 = tl.sum(sums2).to(tl.int64)
            above3 = tl.sum(sums3).to(tl.int64)
            if above1 < wanted:
                high, above = t1, above1
            elif above2 < wanted:
                low, high, above = t1, t2, above2
            elif above3 < wanted:
                low, high, above = t2, t3, above3
            else:
                low = t3
            # where no logit is, nothing has to be sought; a quarter of what is left is at least one float
            start = tl.maximum(low, least)
            most = tl.minimum(high, most)
    return least, above


# one value is read there: it does not matter where they begin
@triton.jit(do_not_specialize_on_alignment=["table", "tokens", "tops"])
def _choose(
    logits,
    table,
    tokens,
    tops,
    vocabulary,
    CHUNKS: tl.constexpr,
    LANES: tl.constexpr,
    STEPS: tl.constexpr,
    UNROLL: tl.constexpr,
    WITHIN: tl.constexpr,
):
    """One row. A chunk has STEPS * LANES tokens, WITHIN at most."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * vocabulary
    table += row * _COLUMNS
    chunk = tl.arange(0, CHUNKS)
    place = (chunk * (STEPS * LANES))[:, None] + tl.arange(0, LANES)[None, :]

    best = tl.full([CHUNKS, LANES], float("-inf"), tl.float32)
    first = tl.zeros([CHUNKS, LANES], tl.int32)
    broken = tl.zeros([CHUNKS, LANES], tl.int32)
    for step in tl.range(0, STEPS, loop_unroll_factor=UNROLL):
        at = place + step * LANES
        x = tl.load(logits + at, mask=at < vocabulary, other=float("-inf"))
        first = tl.where(x > best, at, first)
        best = tl.where(x > best, x, best)
        broken = tl.where(x != x, 1, broken)
    top = tl.max(best)
    token = tl.min(tl.where(best == top, first, vocabulary))
    top = tl.where(tl.max(broken) > 0, float("nan"), top)

    scale = tl.load(table + _SCALE).to(tl.float32)
    if (scale > 0) & (tl.abs(top) < float("inf")):
        wanted_tokens = tl.load(table + _TOP_K).to(tl.int32)
        top_p = tl.load(table + _TOP_P)
        lightest = tl.load(table + _LEAST).to(tl.int64)
        # left are the tokens whose logits are above bound, and `ties` of those that equal it
        bound = _below_all(top, scale)
        ties = tl.zeros([], tl.int32)
        if (wanted_tokens > 0) | (top_p < 1):
            counts = tl.zeros([CHUNKS, LANES], tl.int32)
            sums = tl.zeros([CHUNKS, LANES], tl.int64)
            for step in tl.range(0, STEPS, loop_unroll_factor=UNROLL):
                at = place + step * LANES
                x = tl.load(logits + at, mask=at < vocabulary, other=float("-inf"))
                counts += (x > bound).to(tl.int32)
                sums += _weight(x, top, scale)
            total = tl.sum(sums)
            if (wanted_tokens > 0) & (wanted_tokens < tl.sum(counts)):
                bound, above = _bound(logits, place, vocabulary, top, scale, wanted_tokens, True, LANES, STEPS, UNROLL)
                ties = wanted_tokens - above.to(tl.int32)
                if top_p < 1:
                    sums = tl.zeros([CHUNKS, LANES], tl.int64)
                    for step in tl.range(0, STEPS, loop_unroll_factor=UNROLL):
                        at = place + step * LANES
                        x = tl.load(logits + at, mask=at < vocabulary, other=float("-inf"))
                        sums += tl.where(x > bound, _weight(x, top, scale), 0)
                    total = tl.sum(sums) + ties.to(tl.int64) * _weight(bound, top, scale)
            if top_p < 1:
                share = top_p * total.to(tl.float64)
                wanted = share.to(tl.int64)
                wanted += (wanted.to(tl.float64) < share).to(tl.int64)
                wanted = tl.maximum(tl.minimum(wanted, total), 1)
                bound, above = _bound(logits, place, vocabulary, top, scale, wanted, False, LANES, STEPS, UNROLL)
                each = tl.maximum(_weight(bound, top, scale), 1)
                ties = tl.minimum((wanted - above + each - 1) // each, vocabulary).to(tl.int32)

        sums = tl.zeros([CHUNKS, LANES], tl.int64)
        equals = tl.zeros([CHUNKS, LANES], tl.int32)
        for step in tl.range(0, STEPS, loop_unroll_factor=UNROLL):
            at = place + step * LANES
            x = tl.load(logits + at, mask=at < vocabulary, other=float("-inf"))
            weight = _weight(x, top, scale)
            sums += tl.where((x > bound) & (weight >= lightest), weight, 0)
            equals += (x == bound).to(tl.int32)
        equal = tl.sum(equals, 1)
        left = tl.minimum(tl.maximum(ties - (tl.cumsum(equal, 0) - equal), 0), equal)
        each = _weight(bound, top, scale)
        each = tl.where(each >= lightest, each, 0)
        held = tl.sum(sums, 1) + left.to(tl.int64) * each
        ends = tl.cumsum(held, 0)
        total = tl.sum(held)
        target = (tl.load(table + _UNIFORM) * total.to(tl.float64)).to(tl.int64)
        target = tl.minimum(target, total - 1)

        before = ends <= target
        start = tl.sum(before.to(tl.int32)) * (STEPS * LANES)
        ties -= tl.sum(tl.where(before, equal, 0))
        within = tl.arange(0, WITHIN)
        inside = (within < STEPS * LANES) & (start + within < vocabulary)
        x = tl.load(logits + start + within, mask=inside, other=float("-inf"))
        weight = _weight(x, top, scale)
        is_left = (x > bound) | ((x == bound) & (tl.cumsum((x == bound).to(tl.int32), 0) <= ties))
        weight = tl.where(is_left & (weight >= lightest), weight, 0)
        ends = tl.sum(tl.where(before, held, 0)) + tl.cumsum(weight, 0)
        token = start + tl.sum((ends <= target).to(tl.int32))
    tl.store(tokens + row, token.to(tl.int64))
    tl.store(tops + row, top)


class TritonDraw:
    """`drawing.Choose` on one device.

    Rows of a vocabulary that is no multiple of 4 begin where 16 bytes can be read at once, or do not: Triton compiles a
    variant for either.
    """

    def __call__(self, logits: torch.Tensor, table: Table) -> tuple[torch.Tensor, torch.Tensor]:
        rows, vocabulary = logits.shape
        tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
        tops = torch.empty(rows, dtype=torch.float32, device=logits.device)
        steps = triton.cdiv(vocabulary, CHUNKS * LANES)
        _choose[(rows,)](
            logits.contiguous(),
            to_device(table, logits.device),
            tokens,
            tops,
            vocabulary,
            CHUNKS=CHUNKS,
            LANES=LANES,
            STEPS=steps,
            UNROLL=UNROLL,
            WITHIN=triton.next_power_of_2(steps * LANES),
            num_warps=WARPS,
        )
        return tokens, tops
