"""Weights to 8 bits, each output by its largest weight: for our kernels on CPUs and on GPUs."""

from __future__ import annotations

import torch

from model.config import Quantization

FORMATS = {"int8": (torch.int8, 127.0), "fp8": (torch.float8_e4m3fn, 448.0)}
"""The stored type and its largest value."""
_ROWS_AT_ONCE = 1024


def round_rows(weight: torch.Tensor, quantization: Quantization) -> tuple[torch.Tensor, torch.Tensor]:
    """weight [N, K] -> the same in 8 bits [N, K], and the float32 scale [N] to multiply its rows with.

    Row by row, some at a time: a float32 copy of a large layer would need four times the room of the result.
    """
    dtype, largest = FORMATS[quantization]
    data = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    scale = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
    pieces = (t.split(_ROWS_AT_ONCE) for t in (weight, data, scale))
    for plain, rounded, scales in zip(*pieces, strict=True):
        rows = plain.float()
        scales.copy_(rows.abs().amax(dim=1) / largest)
        rows = rows / scales.clamp_min(1e-30)[:, None]
        rounded.copy_(rows.round_() if dtype is torch.int8 else rows)
    return data, scale
