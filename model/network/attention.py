"""Paged attention for multi-query and multi-head models: what every way of computing it offers, and its definition.

The cache of one layer is `[2, blocks, block_size, kv_heads, head_dim]` (keys, values). A sequence's tokens lie in the
blocks its block table names, in order. A plan takes the new tokens' queries `[T, heads, head_dim]`, decodes first, and
reads keys and values of every position from the cache, where `Operations.write` has put the new ones.
"""

from __future__ import annotations

from typing import Protocol

import torch

from model.batch import Batch


class AttentionPlan(Protocol):
    """What every layer's attention needs to know of a step; built once a step."""

    @property
    def slots(self) -> torch.Tensor:
        """Where each new token's key and value go, [T]: block * block_size + offset."""
        ...

    def attend(self, queries: torch.Tensor, cache: torch.Tensor, scale: float) -> torch.Tensor:
        """queries [T, heads, head_dim] and a layer's cache -> [T, heads, head_dim].

        The queries may be part of a wider tensor.
        """
        ...


class PagedAttention(Protocol):
    """A way of computing attention. All give what `attend_reference` gives, but for the order of sums."""

    def plan(self, batch: Batch) -> AttentionPlan:
        """Of a step, on the device of the cache."""
        ...


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
