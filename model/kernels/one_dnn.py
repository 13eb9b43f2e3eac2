"""Linear layers with the weight in oneDNN's blocked layout, so that no product pays for reordering it. CPUs only."""

from __future__ import annotations

import torch
from torch import nn


class OneDnnLinear(nn.Module):
    """`x @ weight.T + bias` of a weight [out, in], which is copied."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [T, in] -> [T, out]"""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return out
