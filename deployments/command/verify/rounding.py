"""Products in 8 bits by their definition, in transformers' model: what a quantised engine is to compute.

Each output's weights are rounded by the largest of them, and, where the engine does that, each token's inputs by the
largest of these; what comes of it is multiplied in float32. It is written down here once more, so that the engine's
rounding is compared as well as its kernels.

What was rounded is wider than what the checkpoint holds, and would undo accelerate's placing of it: a layer has it
while it computes, and no longer.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import nn

from deployments.command.verify.readings import Rounding


def round_products(model: nn.Module, rounding: Rounding, weights: str) -> None:
    """Of every linear layer, the head's among them. weights: the type in which the engine reads them, by its name."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            # behind the hook that fetches a weight from where it lies
            add_hook_to_module(module, _Rounded(rounding, getattr(torch, weights)), append=True)


_ROWS_BYTES = 16 << 20
"""Of a weight as float32, what is rounded at once."""


class _Rounded(ModelHook):
    def __init__(self, rounding: Rounding, weights: torch.dtype) -> None:
        self._rounding = rounding
        self._weights = weights
        self._stored: dict[str, nn.Parameter] = {}
        self._output = torch.float32

    def pre_forward(self, module: nn.Linear, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        (x,) = args
        self._output = x.dtype
        wide = torch.promote_types(x.dtype, torch.float32)
        self._stored = dict(module.named_parameters(recurse=False))
        # parameters of its own: the embedding, which a tied head shares, stays as it is
        weight = _rounded_weight(module.weight, self._weights, self._rounding.quantization, wide)
        module.weight = nn.Parameter(weight, requires_grad=False)
        if module.bias is not None:
            module.bias = nn.Parameter(module.bias.to(wide), requires_grad=False)
        if self._rounding.inputs:
            x = _rounded(x, self._rounding.quantization)
        return (x.to(wide),), kwargs

    def post_forward(self, module: nn.Module, output: torch.Tensor) -> torch.Tensor:
        stored, self._stored = self._stored, {}
        for name, parameter in stored.items():
            if not getattr(module, name).is_meta:  # as the hook before this one leaves what it fetches anew each time
                setattr(module, name, parameter)
        return output.to(self._output)


@torch.no_grad()
def _rounded_weight(stored: torch.Tensor, read_as: torch.dtype, quantization: str, wide: torch.dtype) -> torch.Tensor:
    """Of a weight [outputs, inputs], read in that type; few rows at a time, for what lies between is several copies."""
    weight = torch.empty_like(stored, dtype=wide)
    rows = max(1, _ROWS_BYTES // (4 * stored.shape[1]))
    for some, of in zip(weight.split(rows), stored.split(rows), strict=True):
        some.copy_(_rounded(of.to(read_as), quantization))
    return weight


def _rounded(values: torch.Tensor, quantization: str) -> torch.Tensor:
    """Rows to 255 steps, or to e4m3, by their largest values; as float32."""
    wide = values.float()
    largest = 127.0 if quantization == "int8" else 448.0
    scale = wide.abs().amax(dim=-1, keepdim=True).clamp_min(1e-30) / largest
    steps = wide / scale
    return (steps.round() if quantization == "int8" else steps.to(torch.float8_e4m3fn).float()) * scale
