"""The steps between a layer's products, which a device may have faster ways for than one PyTorch call each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from model.config import Activation
from model.network.parallel import TensorParallel

ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "gelu_erf": F.gelu,
    "relu": F.relu,
}


class Operations(Protocol):
    """All give what `TorchOperations` gives, but for rounding."""

    def add_norm(self, x: torch.Tensor, more: torch.Tensor, norm: nn.LayerNorm) -> tuple[torch.Tensor, torch.Tensor]:
        """x and more [T, width] -> their sum, and the sum normalised, both [T, width]"""
        ...

    def reduce_add_norm(
        self, x: torch.Tensor, part: torch.Tensor, norm: nn.LayerNorm, group: TensorParallel
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x, and each rank's part of what is to be added to it, [T, width] -> as `add_norm` gives it, on every rank.

        A collective: every rank calls it at once, with as many rows. `part` may be written to.
        """
        ...

    def write(self, cache: torch.Tensor, qkv: torch.Tensor, slots: torch.Tensor) -> None:
        """Put new tokens' keys and values into their slots [T] of a layer's cache; those with -1 go nowhere, or into
        the last slot.

        cache [2, blocks, block_size, kv_heads, head_dim]. qkv [T, heads + 2 * kv_heads, head_dim]: the last are keys,
        then values.
        """
        ...

    def linear(self, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """What a linear layer makes of x [T, in] -> [T, out]"""
        ...

    def activated(self, layer: nn.Module, x: torch.Tensor, activation: Activation) -> torch.Tensor:
        """The activation of what a linear layer makes of x [T, in] -> [T, out]"""
        ...


class TorchOperations:
    """By PyTorch, which runs everywhere."""

    def add_norm(self, x: torch.Tensor, more: torch.Tensor, norm: nn.LayerNorm) -> tuple[torch.Tensor, torch.Tensor]:
        x = x + more
        return x, norm(x)

    def reduce_add_norm(
        self, x: torch.Tensor, part: torch.Tensor, norm: nn.LayerNorm, group: TensorParallel
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.add_norm(x, group.all_reduce(part), norm)

    def write(self, cache: torch.Tensor, qkv: torch.Tensor, slots: torch.Tensor) -> None:
        flat = cache.view(2, -1, *cache.shape[3:])
        kv_heads = cache.shape[3]
        flat[0][slots] = qkv[:, -2 * kv_heads : -kv_heads]
        flat[1][slots] = qkv[:, -kv_heads:]

    def linear(self, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = layer(x)
        return made

    def activated(self, layer: nn.Module, x: torch.Tensor, activation: Activation) -> torch.Tensor:
        return ACTIVATIONS[activation](layer(x))
