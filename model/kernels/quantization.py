"""Weights in 8 bits on a GPU: each layer is rounded as soon as it is loaded, and multiplied by our Triton kernels.

Each output has a scale of its own, its largest weight being the largest value of the format, as for the rows of
LLM.int8() (Dettmers et al., arXiv:2208.07339); fp8 is e4m3 (Micikevicius et al., arXiv:2209.05433). What weights are
multiplied with keeps its type, so that outliers in it cost nothing. The exception: many rows at once with fp8 weights
on a Hopper GPU, which multiplies fp8 by fp8.
"""

from __future__ import annotations

import torch
from torch import nn

from model.config import Quantization
from model.device import programs_of
from model.kernels import triton_linear
from model.kernels.linear_tiles import MOST_ROWS, MOST_ROWS_BESIDE_FP8, class_starts
from model.kernels.rounding import round_rows

_FP8_CAPABILITY = (8, 9)
_HOPPER = 9


class QuantizedLinear(nn.Module):
    """A layer with weights in 8 bits: by the kernel that reads them as they are, or for many rows by cuBLAS.

    weight [N, K], scale [N], bias [N] or None. scratch: of the activations' type, shared with other layers; it is
    overwritten. finished: zeros (`triton_linear.counters`), shared as well. programs: as of `triton_linear.multiply`.
    fp8_products: whether the GPU multiplies fp8 by fp8 with row scales.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor | None,
        scratch: torch.Tensor,
        finished: torch.Tensor,
        programs: int,
        fp8_products: bool,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._scratch, self._finished = scratch, finished  # neither parameters nor buffers: they are no layer's own
        self.programs = programs
        aligned = all(n % 16 == 0 for n in weight.shape)
        self.fp8_products = (
            fp8_products and aligned and weight.dtype is torch.float8_e4m3fn and scratch.dtype is torch.bfloat16
        )
        self.most_rows = MOST_ROWS_BESIDE_FP8 if self.fp8_products else MOST_ROWS

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [T, K] -> [T, N]"""
        return self.multiply(x, self.bias)

    def multiply(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """x [T, K], bias [N] or None -> [T, N]"""
        x = x.contiguous()
        if len(x) <= self.most_rows:
            return triton_linear.multiply(x, self.weight, self.scale, bias, self.programs, finished=self._finished)
        if self.fp8_products:
            return triton_linear.multiply_fp8(x, self.weight, self.scale, bias)
        return triton_linear.multiply_widened(x, self.weight, self.scale, bias, self._scratch)


class Quantizer:
    """The `Form` of one rank's linear layers: each is rounded as it is loaded. `obstacle` says where it cannot run.

    scratch_values: of the activations' type, kept for products of many rows (`memory.scratch_values`).
    """

    def __init__(
        self, quantization: Quantization, device: torch.device, dtype: torch.dtype, scratch_values: int
    ) -> None:
        self._quantization = quantization
        self._scratch = torch.empty(scratch_values, dtype=dtype, device=device)
        self._finished = triton_linear.counters(device)
        self._programs = programs_of(device)
        self._fp8_products = multiplies_fp8(device)
        self._compiled: set[tuple[int, int]] = set()

    def __call__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> QuantizedLinear:
        """The layer of a plain weight [N, K], rounded; on a GPU its kernels are compiled."""
        data, scale = round_rows(weight, self._quantization)
        layer = QuantizedLinear(data, scale, bias, self._scratch, self._finished, self._programs, self._fp8_products)
        if self._scratch.device.type == "cuda":
            self.compile(layer)
        return layer

    def compile(self, layer: QuantizedLinear) -> None:
        """Run each kernel that the layer may need, once for its shape: the first requests would wait for them.

        What the device or PyTorch refuses fails here, before anything is served.
        """
        outputs, inputs = layer.weight.shape
        kind = (outputs, inputs)
        if kind in self._compiled:
            return
        self._compiled.add(kind)
        bias = None if layer.bias is None else self._scratch.new_zeros(outputs)  # its own is not loaded yet
        for rows in (*class_starts(), MOST_ROWS + 1):
            layer.multiply(self._scratch.new_zeros(rows, inputs), bias)


def multiplies_fp8(device: torch.device) -> bool:
    """Whether PyTorch multiplies fp8 by fp8 with row scales here: on Hopper GPUs.

    On consumer Blackwell it did not in its release 2.10 (pytorch/pytorch#192707); newer GPUs are left out until seen.
    """
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == _HOPPER


def obstacle(quantization: Quantization, device: torch.device) -> str | None:
    """What keeps the kernels from this device, or None."""
    if device.type == "cpu":
        if triton_linear.INTERPRETED:
            return None
        return "with attention=triton needs a GPU (or TRITON_INTERPRET=1, for tests)"
    capability = torch.cuda.get_device_capability(device)
    if quantization == "fp8" and capability < _FP8_CAPABILITY:
        return (
            f"needs a GPU of compute capability 8.9 or above (Ada, Hopper); "
            f"{torch.cuda.get_device_name(device)} has {'.'.join(map(str, capability))}: int8 runs there"
        )
    return None
