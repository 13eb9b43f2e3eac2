"""Attention over a striped cache by PyTorch's operations, which run everywhere.

By plain products and a softmax: scaled_dot_product_attention does not say what it divides by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from model.batch import Batch
from model.device import to_device
from model.network.stripes import StripedPlan, Stripes, empty_parts, join_parts, logsumexps

SCORES_AT_ONCE = 1 << 24
"""Of a chunk's rows, in float32: 64 MiB, and twice that for their softmax."""


@dataclass(frozen=True)
class Piece:
    """Query rows `[start, end)` of the batch: one of each of S sequences, or several of one.

    blocks [S, n]: the sequences' block tables. kept [S, rows]: how many of this rank's tokens each row sees.
    """

    start: int
    end: int
    blocks: torch.Tensor
    kept: torch.Tensor

    def attend(self, queries: torch.Tensor, cache: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """queries [count, end - start, heads, width] -> sums like them and, without width, logsumexps, in float32"""
        count, _, heads, width = queries.shape
        sequences, rows = self.kept.shape
        keys, values = cache[:, self.blocks].flatten(2).unflatten(2, (-1, width)).float()  # [S, tokens, width] each
        # all heads share the keys, so they are rows of one product with them
        asked = queries.transpose(0, 1).reshape(sequences, -1, width).float()
        scores = (asked @ keys.mT).mul_(scale).view(sequences, rows, count * heads, -1)
        hidden = torch.arange(keys.shape[1], device=keys.device) >= self.kept[..., None, None]
        scores.masked_fill_(hidden, float("-inf"))
        lse = scores.logsumexp(-1)
        weights = scores.sub_(lse.masked_fill(lse == float("-inf"), 0).unsqueeze(-1)).exp_()
        found = weights.flatten(1, 2) @ values
        return found.view(-1, count, heads, width).transpose(0, 1), lse.view(-1, count, heads).transpose(0, 1)


@dataclass(frozen=True)
class TorchPartPlan:
    """slots [T]: of this rank's cache, or -1. pieces: all rows of the batch."""

    slots: torch.Tensor
    pieces: tuple[Piece, ...]

    def attend_part(self, queries: torch.Tensor, cache: torch.Tensor, scale: float) -> torch.Tensor:
        parts = empty_parts(queries)
        lses = logsumexps(parts)
        for piece in self.pieces:
            rows = slice(piece.start, piece.end)
            parts[:, rows, :, : queries.shape[-1]], lses[:, rows] = piece.attend(queries[:, rows], cache, scale)
        return parts

    def join(self, parts: torch.Tensor, width: int) -> torch.Tensor:
        return join_parts(parts, width)


@dataclass(frozen=True)
class StripedTorchAttention:
    """heads: query heads of all ranks that share the cache. block_size: this rank's tokens of a block."""

    heads: int
    block_size: int
    device: torch.device
    stripes: Stripes

    def plan(self, batch: Batch) -> StripedPlan:
        tables = to_device(batch.block_tables, self.device)
        pieces = tuple(self._pieces(batch, tables))
        return StripedPlan(TorchPartPlan(to_device(batch.slots, self.device), pieces), self.stripes)

    def _pieces(self, batch: Batch, tables: torch.Tensor) -> Iterator[Piece]:
        stripe, decodes = self.stripes.stripe, batch.num_decodes
        if decodes:
            kept = stripe.kept(batch.context_lens[:decodes])
            yield Piece(0, decodes, tables[:decodes, : self._blocks(kept)], to_device(kept[:, None], self.device))
        start = decodes
        for row in range(decodes, len(batch.query_lens)):
            count, context = int(batch.query_lens[row]), int(batch.context_lens[row])
            kept = stripe.kept(np.arange(context - count, context) + 1)
            blocks = self._blocks(kept)
            together = max(1, SCORES_AT_ONCE // (self.heads * blocks * self.block_size))
            for at in range(0, count, together):
                part = kept[None, at : at + together]
                end = start + part.size
                yield Piece(start, end, tables[row : row + 1, :blocks], to_device(part, self.device))
                start = end

    def _blocks(self, kept: np.ndarray) -> int:
        """That hold what the rows see; at least one, so that there is something to look at."""
        return max(1, -(-int(kept.max()) // self.block_size))
