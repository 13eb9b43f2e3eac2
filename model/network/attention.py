"""Paged attention for multi-query and multi-head models.

The cache of one layer is `[2, blocks, block_size, kv_heads, head_dim]` (keys, values). A sequence's tokens lie in the
blocks its block table names, in order. All functions take the new tokens' queries `[T, heads, head_dim]`, decodes
first, and read keys and values of every position from the cache, where `write` has put the new ones.

`attend` is the fast form; `attend_reference` is the plain one it is tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from model.batch import Batch
from model.device import to_device

Kernel = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
"""Queries [T, heads, head_dim], a layer's cache and the scale -> [T, heads, head_dim]."""


@dataclass(frozen=True)
class Chunk:
    """One prefill chunk: query rows `[start, end)` of the batch, whose last row is at position `context - 1`."""

    start: int
    end: int
    context: int
    blocks: torch.Tensor
    mask: torch.Tensor | None
    """[queries, context], True where a query may look; None where the plain causal triangle does."""


@dataclass(frozen=True)
class AttentionPlan:
    """What every layer's attention needs to know of a step; built once a step.

    slots [T]: where each new token's key and value go (block * block_size + offset).
    decode_blocks [B, n]: block tables of the B decoding sequences, padded with block 0.
    decode_mask [B, 1, 1, n * block_size]: additive, -inf outside a sequence's context.
    """

    slots: torch.Tensor
    decodes: int
    decode_blocks: torch.Tensor
    decode_mask: torch.Tensor
    chunks: tuple[Chunk, ...]
    kernel: Kernel | None = None
    """Does the attention of the whole batch, where there is one; the fields above but `slots` are empty then."""

    @classmethod
    def by_kernel(cls, slots: torch.Tensor, kernel: Kernel) -> AttentionPlan:
        """Of a step whose attention the kernel does."""
        nothing = torch.empty(0)
        return cls(slots, 0, nothing, nothing, (), kernel)

    @classmethod
    def of(cls, batch: Batch, block_size: int, device: torch.device, dtype: torch.dtype) -> AttentionPlan:
        """Of a step for PyTorch's operations."""
        tables = to_device(batch.block_tables, device)
        decodes = batch.num_decodes
        contexts = to_device(batch.context_lens, device)
        blocks = -(-int(batch.context_lens[:decodes].max()) // block_size) if decodes else 0
        positions = torch.arange(blocks * block_size, device=device)
        mask = torch.zeros(decodes, 1, 1, blocks * block_size, device=device, dtype=dtype)
        mask.masked_fill_(positions >= contexts[:decodes, None, None, None], float("-inf"))
        chunks = []
        start = decodes
        for row in range(decodes, len(batch.query_lens)):
            queries, context = int(batch.query_lens[row]), int(batch.context_lens[row])
            causal = None
            if queries != context:
                causal = torch.ones(queries, context, dtype=torch.bool, device=device).tril_(context - queries)
            used = -(-context // block_size)
            chunks.append(Chunk(start, start + queries, context, tables[row, :used], causal))
            start += queries
        return cls(
            slots=to_device(batch.slots, device),
            decodes=decodes,
            decode_blocks=tables[:decodes, :blocks],
            decode_mask=mask,
            chunks=tuple(chunks),
        )


def write(cache: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor) -> None:
    """Put the new tokens' keys and values, each [T, kv_heads, head_dim], into their slots of a layer's cache."""
    flat = cache.view(2, -1, *cache.shape[3:])
    flat[0].index_copy_(0, slots, keys)
    flat[1].index_copy_(0, slots, values)


def attend(queries: torch.Tensor, cache: torch.Tensor, plan: AttentionPlan, scale: float) -> torch.Tensor:
    """queries [T, heads, head_dim] -> [T, heads, head_dim]"""
    if plan.kernel is not None:
        return plan.kernel(queries, cache, scale)
    out = torch.empty_like(queries)
    if plan.decodes:
        out[: plan.decodes] = _attend_decodes(queries[: plan.decodes], cache, plan, scale)
    for chunk in plan.chunks:
        out[chunk.start : chunk.end] = _attend_chunk(queries[chunk.start : chunk.end], cache, chunk, scale)
    return out


def _attend_decodes(queries: torch.Tensor, cache: torch.Tensor, plan: AttentionPlan, scale: float) -> torch.Tensor:
    """All decoding sequences at once: the heads that share a key are the rows of one matrix product."""
    batch, heads, width = queries.shape
    kv_heads = cache.shape[3]
    context = cache[:, plan.decode_blocks].flatten(2, 3).transpose(2, 3)  # [2, B, kv_heads, context, width]
    out = F.scaled_dot_product_attention(
        queries.view(batch, kv_heads, heads // kv_heads, width),
        context[0],
        context[1],
        attn_mask=plan.decode_mask.expand(batch, kv_heads, heads // kv_heads, -1),
        scale=scale,
    )
    return out.reshape(batch, heads, width)


def _attend_chunk(queries: torch.Tensor, cache: torch.Tensor, chunk: Chunk, scale: float) -> torch.Tensor:
    heads = queries.shape[1]
    context = cache[:, chunk.blocks].flatten(1, 2)[:, : chunk.context]  # [2, context, kv_heads, width]
    keys, values = (part.transpose(0, 1).expand(heads, -1, -1).unsqueeze(0) for part in context)
    out = F.scaled_dot_product_attention(
        queries.transpose(0, 1).unsqueeze(0),
        keys,
        values,
        attn_mask=chunk.mask,
        is_causal=chunk.mask is None,
        scale=scale,
    )
    return out[0].transpose(0, 1)


def attend_reference(queries: torch.Tensor, cache: torch.Tensor, batch: Batch, scale: float) -> torch.Tensor:
    """The definition, one query and one head at a time in float32."""
    block_size = cache.shape[2]
    out = torch.empty_like(queries)
    group = queries.shape[1] // cache.shape[3]
    row = 0
    for sequence, count in enumerate(batch.query_lens):
        for i in range(int(count)):
            visible = int(batch.context_lens[sequence]) - int(count) + i + 1
            table = batch.block_tables[sequence]
            slots = [(int(table[p // block_size]), p % block_size) for p in range(visible)]
            for head in range(queries.shape[1]):
                keys = torch.stack([cache[0, b, o, head // group] for b, o in slots]).float()
                values = torch.stack([cache[1, b, o, head // group] for b, o in slots]).float()
                weights = torch.softmax(keys @ queries[row, head].float() * scale, dim=0)
                out[row, head] = (weights @ values).to(out.dtype)
            row += 1
    return out
