"""What stands between a step's products, in Triton: sums and norms in one launch, keys and values in another.

Decoding a few tokens, each of PyTorch's small kernels takes as long as its launch: an H100 spent 1.0 ms of a step of
13 ms (the 15.5B shape) in 81 norms and as many sums (benchmarks/results/gpu-h100-first.json). `TorchOperations` is
what these are tested against.
"""

from __future__ import annotations

from typing import Protocol, TypeGuard

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import nn

from model.config import Activation
from model.kernels import triton_gemv
from model.network.layers import Linear
from model.network.operations import TorchOperations
from model.network.parallel import TensorParallel

_WARP_VALUES = 512
"""Of a row, for each warp of the program that normalises it."""


def warps_of(columns: int) -> int:
    """Of a program that normalises a row of so many columns."""
    return min(16, max(1, columns // _WARP_VALUES))


@triton.jit
def normalise(value, inside, eps, N: tl.constexpr):
    """A row in float32, N values of which are `inside`, less its mean, by its standard deviation."""
    mean = tl.sum(value, 0) / N
    centred = tl.where(inside, value - mean, 0.0)
    return centred * tl.rsqrt(tl.sum(centred * centred, 0) / N + eps)


@triton.jit(do_not_specialize=["eps"])
def _add_norm(x, more, weight, bias, summed, normed, eps, N: tl.constexpr, COLUMNS: tl.constexpr):
    """One row. The sum is rounded to its type before it is normalised, as it is without us; statistics are float32."""
    row = tl.program_id(0).to(tl.int64) * N
    column = tl.arange(0, COLUMNS)
    inside = column < N
    left = tl.load(x + row + column, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(more + row + column, mask=inside, other=0.0).to(tl.float32)
    total = (left + right).to(summed.dtype.element_ty)
    tl.store(summed + row + column, total, mask=inside)
    scaled = normalise(total.to(tl.float32), inside, eps, N)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row + column, (scaled * w + b).to(normed.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["row_heads"])
def _write(qkv, keys, values, slots, row_heads, WIDTH: tl.constexpr):
    """One token's key and value: the last two of its `row_heads` heads."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    slot = tl.load(slots + token)
    if slot >= 0:  # else another rank keeps it
        place = slot * WIDTH + column
        source = qkv + (token * row_heads + row_heads - 2) * WIDTH + column
        tl.store(keys + place, tl.load(source))
        tl.store(values + place, tl.load(source + WIDTH))


class Fused(Protocol):
    """`triton_all_reduce.FusedAllReduce`."""

    def holds(self, part: torch.Tensor) -> bool: ...
    def add_norm(
        self, x: torch.Tensor, part: torch.Tensor, norm: nn.LayerNorm
    ) -> tuple[torch.Tensor, torch.Tensor]: ...


class TritonOperations(TorchOperations):
    """The `Operations` of a multi-query model whose heads' width is a power of two."""

    def __init__(self, activation_in_product: bool = False, fused: Fused | None = None) -> None:
        self.activation_in_product = activation_in_product
        """Whether cuBLAS applies the tanh form of GELU to what it multiplies: on GPUs."""
        self.fused = fused
        """What adds up over ranks in the kernel that norms, where there is such; collectives do so for all else."""

    def add_norm(self, x: torch.Tensor, more: torch.Tensor, norm: nn.LayerNorm) -> tuple[torch.Tensor, torch.Tensor]:
        x, more = x.contiguous(), more.contiguous()
        summed, normed = torch.empty_like(x), torch.empty_like(x)
        rows, width = x.shape
        columns = triton.next_power_of_2(width)
        _add_norm[(rows,)](
            x,
            more,
            norm.weight,
            norm.bias,
            summed,
            normed,
            norm.eps,
            N=width,
            COLUMNS=columns,
            num_warps=warps_of(columns),
        )
        return summed, normed

    def reduce_add_norm(
        self, x: torch.Tensor, part: torch.Tensor, norm: nn.LayerNorm, group: TensorParallel
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.fused is not None and self.fused.holds(part):
            return self.fused.add_norm(x, part, norm)
        return super().reduce_add_norm(x, part, norm, group)

    def write(self, cache: torch.Tensor, qkv: torch.Tensor, slots: torch.Tensor) -> None:
        tokens, row_heads, width = qkv.shape
        _write[(tokens,)](qkv, cache[0], cache[1], slots, row_heads, WIDTH=width, num_warps=1)

    def linear(self, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if _few_rows(layer, x):
            return triton_gemv.multiply(x, layer.weight, layer.bias)
        return super().linear(layer, x)

    def activated(self, layer: nn.Module, x: torch.Tensor, activation: Activation) -> torch.Tensor:
        if activation == "gelu_tanh" and _few_rows(layer, x):
            return triton_gemv.multiply(x, layer.weight, layer.bias, gelu_tanh=True)
        if self.activation_in_product and activation == "gelu_tanh" and isinstance(layer, Linear):
            assert layer.bias is not None
            return torch._addmm_activation(layer.bias, x, layer.weight.t(), use_gelu=True)
        return super().activated(layer, x, activation)


def _few_rows(layer: nn.Module, x: torch.Tensor) -> TypeGuard[Linear]:
    """Whether `triton_gemv` is faster: matrix units want values of 16 bits."""
    return isinstance(layer, Linear) and 0 < len(x) <= triton_gemv.MOST_ROWS and x.dtype.itemsize == 2


def gelu_product_error(dtype: torch.dtype, device: torch.device) -> float:
    """How far a product whose GELU cuBLAS applies is from one that PyTorch applies it to, by values of about 1."""
    generator = torch.Generator(device).manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator, device=device).to(dtype) for shape in ((5, 256), (128, 256), (128,))
    )
    weight /= 16
    found = torch._addmm_activation(bias, x, weight.t(), use_gelu=True)
    exact = F.gelu(F.linear(x.float(), weight.float(), bias.float()), approximate="tanh")
    return float((found.float() - exact).abs().max())
