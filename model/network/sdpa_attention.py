"""Paged attention by PyTorch's scaled_dot_product_attention, over keys and values gathered from their blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from model.batch import Batch
from model.device import to_device


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
class SdpaPlan:
    """A step's decodes, all at once, and its prefill chunks one by one.

    slots [T]: block * block_size + offset.
    decode_blocks [B, n]: block tables of the B decoding sequences, padded with block 0.
    decode_mask [B, 1, 1, n * block_size]: additive, -inf outside a sequence's context.
    """

    slots: torch.Tensor
    decodes: int
    decode_blocks: torch.Tensor
    decode_mask: torch.Tensor
    chunks: tuple[Chunk, ...]

    def attend(self, queries: torch.Tensor, cache: torch.Tensor, scale: float) -> torch.Tensor:
        """queries [T, heads, head_dim] -> [T, heads, head_dim]"""
        out = queries.new_empty(queries.shape)
        if self.decodes:
            out[: self.decodes] = self._attend_decodes(queries[: self.decodes], cache, scale)
        for chunk in self.chunks:
            out[chunk.start : chunk.end] = _attend_chunk(queries[chunk.start : chunk.end], cache, chunk, scale)
        return out

    def _attend_decodes(self, queries: torch.Tensor, cache: torch.Tensor, scale: float) -> torch.Tensor:
        """All decoding sequences at once: the heads that share a key are the rows of one matrix product."""
        batch, heads, width = queries.shape
        kv_heads = cache.shape[3]
        context = cache[:, self.decode_blocks].flatten(2, 3).transpose(2, 3)  # [2, B, kv_heads, context, width]
        out = F.scaled_dot_product_attention(
            queries.unflatten(1, (kv_heads, heads // kv_heads)),
            context[0],
            context[1],
            attn_mask=self.decode_mask.expand(batch, kv_heads, heads // kv_heads, -1),
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


@dataclass(frozen=True)
class SdpaAttention:
    """Runs wherever PyTorch does. dtype: of the queries and the cache."""

    block_size: int
    device: torch.device
    dtype: torch.dtype

    def plan(self, batch: Batch) -> SdpaPlan:
        tables = to_device(batch.block_tables, self.device)
        decodes = batch.num_decodes
        blocks = -(-int(batch.context_lens[:decodes].max()) // self.block_size) if decodes else 0
        return SdpaPlan(
            slots=to_device(batch.slots, self.device),
            decodes=decodes,
            decode_blocks=tables[:decodes, :blocks],
            decode_mask=self._decode_mask(batch, blocks),
            chunks=tuple(self._chunks(batch, tables)),
        )

    def _decode_mask(self, batch: Batch, blocks: int) -> torch.Tensor:
        contexts = to_device(batch.context_lens, self.device)[: batch.num_decodes, None, None, None]
        positions = torch.arange(blocks * self.block_size, device=self.device)
        mask = torch.zeros(batch.num_decodes, 1, 1, len(positions), device=self.device, dtype=self.dtype)
        return mask.masked_fill_(positions >= contexts, float("-inf"))

    def _chunks(self, batch: Batch, tables: torch.Tensor) -> Iterator[Chunk]:
        start = batch.num_decodes
        for row in range(batch.num_decodes, len(batch.query_lens)):
            queries, context = int(batch.query_lens[row]), int(batch.context_lens[row])
            causal = None
            if queries != context:
                causal = torch.ones(queries, context, dtype=torch.bool, device=self.device).tril_(context - queries)
            used = -(-context // self.block_size)
            yield Chunk(start, start + queries, context, tables[row, :used], causal)
            start += queries
