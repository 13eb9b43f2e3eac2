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

Product = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""x [T, in] and a bias [out] or None -> `x @ weight.T + bias` [T, out], with a weight in a form of its own."""


def one_dnn_product(weight: torch.Tensor) -> Product:
    """With the weight in oneDNN's blocked layout, so that no product pays for reordering it. CPU only."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)

    def product(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")

    return product


class Linear(nn.Module):
    """`x @ weight.T + bias`, weight [out, in]. `replace_weight` puts another form in the plain weight's place."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None
        self.product: Product | None = None

    def replace_weight(self, form: Callable[[torch.Tensor], Product]) -> None:
        """`form` makes of the plain weight what multiplies by it from now on; the plain weight is dropped."""
        self.product = form(self.weight.data)
        self.weight.data = self.weight.data.new_empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.product is not None:
            return self.product(x, self.bias)
        return F.linear(x, self.weight, self.bias)


class ColumnParallelLinear(Linear):
    """This rank's `out_features / size` outputs of the whole layer."""

    def __init__(self, in_features: int, out_features: int, group: TensorParallel, *, bias: bool = True) -> None:
        super().__init__(in_features, out_features // group.size, bias=bias)


class RowParallelLinear(Linear):
    """This rank's `in_features / size` inputs of the whole layer; the outputs are summed over the ranks.

    Only rank 0 holds the bias, so that the sum adds it once.
    """

    def __init__(self, in_features: int, out_features: int, group: TensorParallel) -> None:
        super().__init__(in_features // group.size, out_features, bias=group.is_first)
        self.group = group

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.group.all_reduce(super().forward(x))


def padded_vocabulary(vocab_size: int, size: int) -> int:
    """The vocabulary rounded up to a multiple of the ranks."""
    return -(-vocab_size // size) * size


class VocabParallelEmbedding(nn.Module):
    """Rows `[rank * n, (rank + 1) * n)` of the embedding, n = padded vocabulary / size."""

    def __init__(self, vocab_size: int, width: int, group: TensorParallel) -> None:
        super().__init__()
        self.rows = padded_vocabulary(vocab_size, group.size) // group.size
        self.first = group.rank * self.rows
        self.group = group
        self.weight = nn.Parameter(torch.empty(self.rows, width), requires_grad=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids [T] -> [T, width]"""
        if self.group.size == 1:
            return F.embedding(ids, self.weight)
        local = ids - self.first
        outside = (local < 0) | (local >= self.rows)
        embedded = F.embedding(local.masked_fill(outside, 0), self.weight)
        return self.group.all_reduce(embedded.masked_fill_(outside.unsqueeze(-1), 0))
