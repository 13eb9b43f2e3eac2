"""Muon over stacks of matrices: as `torch.optim.Muon`, in a tenth of the launches, which a small network needs.

Momentum, made orthogonal by Newton-Schulz steps (Jordan 2024), scaled so that an entry moves as with AdamW (Moonlight,
arXiv:2502.16982). All matrices of one form are one batched product. Of a fused attention projection the queries, the
key and the value are matrices of their own.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

_A, _B, _C = 3.4445, -4.7750, 2.0315
STEPS = 5


def orthogonal(stack: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest matrices with like singular values, about 1; `stack` is (N, rows, columns), rows <= columns."""
    x = stack.to(dtype)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=_B, alpha=_C), x, beta=_A)
    return x


class Muon(torch.optim.Optimizer):
    """`parts` gives, for each parameter, the sizes of the matrices that stand one above the other in it."""

    def __init__(
        self, matrices: list[tuple[nn.Parameter, list[int]]], weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__([p for p, _ in matrices], {"lr": 0.0, "weight_decay": weight_decay, "momentum": momentum})
        self._forms: dict[tuple[int, int], list[tuple[nn.Parameter, int, int, bool]]] = defaultdict(list)
        for parameter, sizes in matrices:
            self.state[parameter]["moment"] = torch.zeros_like(parameter)
            start = 0
            for size in sizes:
                form = (min(size, parameter.shape[1]), max(size, parameter.shape[1]))
                self._forms[form].append((parameter, start, start + size, size > parameter.shape[1]))
                start += size
        self._dtype = torch.bfloat16 if matrices[0][0].is_cuda else torch.float32

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of all matrices."""
        group = self.param_groups[0]
        rate, momentum = group["lr"], group["momentum"]
        parameters = group["params"]
        gradients = [p.grad for p in parameters]
        moments = [self.state[p]["moment"] for p in parameters]
        torch._foreach_lerp_(moments, gradients, 1 - momentum)
        ahead = dict(zip(parameters, torch._foreach_lerp(gradients, moments, momentum), strict=True))
        torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
        for (_, columns), members in self._forms.items():
            found = [ahead[p][start:end] for p, start, end, _ in members]
            stack = torch.stack([m.T if wide else m for m, (*_, wide) in zip(found, members, strict=True)])
            updates = orthogonal(stack, self._dtype)
            step = -0.2 * columns**0.5 * rate
            targets = [p[start:end] for p, start, end, _ in members]
            turned = [u.T if wide else u for u, (*_, wide) in zip(updates.float(), members, strict=True)]
            torch._foreach_add_(targets, turned, alpha=step)
