"""Linear layers and the embedding, split over the tensor-parallel ranks (Megatron-LM, arXiv:1909.08053).

A column-parallel layer holds some output features and needs no communication; the row-parallel layer behind it
holds the matching input features and sums the ranks' partial results. So a block costs two all-reduces.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from model.network.parallel import TensorParallel

Form = Callable[[torch.Tensor, torch.Tensor | None], nn.Module]
"""Makes of a weight [out, in] and a bias [out] or None the layer that computes with them, x [T, in] -> [T, out]. The
layer is to have an attribute `bias`: it is set when the bias has been loaded too."""


class Linear(nn.Module):
    """`x @ weight.T + bias`, with the weight [out, in] as it is."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


def linear(in_features: int, out_features: int, *, bias: bool = True) -> Linear:
    """A layer to be loaded."""
    return Linear(torch.empty(out_features, in_features), torch.empty(out_features) if bias else None)


def column_parallel(in_features: int, out_features: int, group: TensorParallel) -> Linear:
    """This rank's `out_features / size` outputs of the whole layer."""
    return linear(in_features, out_features // group.size)


def row_parallel(in_features: int, out_features: int, group: TensorParallel) -> Linear:
    """This rank's `in_features / size` inputs of the whole layer; its outputs are to be summed over the ranks.

    Only rank 0 holds the bias, so that the sum adds it once.
    """
    return linear(in_features // group.size, out_features, bias=group.is_first)


def padded_vocabulary(vocab_size: int, size: int) -> int:
    """The vocabulary rounded up to a multiple of the ranks."""
    return -(-vocab_size // size) * size


class VocabParallelEmbedding(nn.Module):
    """Rows `[rank * n, (rank + 1) * n)` of the embedding, n = padded vocabulary / size."""

    def __init__(self, vocab_size: int, width: int, group: TensorParallel) -> None:
        super().__init__()
        self.rows = padded_vocabulary(vocab_size, group.size) // group.size
        self.first = group.rank * self.rows
        self.size = group.size
        self.weight = nn.Parameter(torch.empty(self.rows, width), requires_grad=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids [T] -> [T, width], zeros where other ranks hold a token's row: to be summed over the ranks"""
        if self.size == 1:
            return F.embedding(ids, self.weight)
        local = ids - self.first
        outside = (local < 0) | (local >= self.rows)
        embedded = F.embedding(local.masked_fill(outside, 0), self.weight)
        return embedded.masked_fill_(outside.unsqueeze(-1), 0)
