"""A model's sizes as `forward.c` takes them, and its parameters in these sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from model.config import ModelConfig

HEAD_STEP = 64


@dataclass(frozen=True)
class _Axis:
    """`groups` times `own` values, each group to be `filled` long."""

    own: int
    filled: int
    groups: int = 1

    def fill(self, value: torch.Tensor, at: int) -> torch.Tensor:
        """value with zeros behind each group of its axis `at`; itself where there is nothing to fill."""
        if self.own == self.filled:
            return value
        parts = value.unflatten(at, (self.groups, self.own))
        out = value.new_zeros(*parts.shape[: at + 1], self.filled, *parts.shape[at + 2 :])
        out.narrow(at + 1, 0, self.own).copy_(parts)
        return out.flatten(at, at + 1)


@dataclass(frozen=True)
class Dimensions:
    """Widths are multiples of `width_step`, heads of 64 values: what a model has less is filled up with zeros.

    They add nothing to any product, both GELUs and ReLU keep them, and so does a layer norm whose parameters have them.
    """

    model: ModelConfig
    width_step: int

    @property
    def width(self) -> int:
        return _round_up(self.model.n_embd, self.width_step)

    @property
    def inner(self) -> int:
        return _round_up(self.model.n_inner, self.width_step)

    @property
    def head_dim(self) -> int:
        return _round_up(self.model.head_dim, HEAD_STEP)

    @property
    def queries(self) -> int:
        """Values of all heads' queries of a token."""
        return self.model.n_head * self.head_dim

    @property
    def qkv(self) -> int:
        """Values of all heads' queries, keys and values of a token."""
        return self.queries + 2 * self.model.n_kv_head * self.head_dim

    @property
    def longest(self) -> int:
        """What any product takes in of a token at most."""
        return max(self.width, self.inner, self.queries)

    def filled(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """The parameter that checkpoints call `name` in the kernel's size; `value` itself where that is its own."""
        for at, axis in enumerate(self._axes(name)):
            if axis is not None:
                value = axis.fill(value, at)
        return value

    def _axes(self, name: str) -> tuple[_Axis | None, ...]:
        model = self.model
        width = _Axis(model.n_embd, self.width)
        inner = _Axis(model.n_inner, self.inner)
        queries = _Axis(model.head_dim, self.head_dim, model.n_head)
        qkv = _Axis(model.head_dim, self.head_dim, model.n_head + 2 * model.n_kv_head)
        match name.split(".")[-3:]:
            case [*_, "wte" | "wpe" | "lm_head", "weight"]:
                return (None, width)
            case ["attn", "c_attn", kind]:
                return (qkv, width) if kind == "weight" else (qkv,)
            case ["attn", "c_proj", "weight"]:
                return (width, queries)
            case ["mlp", "c_fc", kind]:
                return (inner, width) if kind == "weight" else (inner,)
            case ["mlp", "c_proj", "weight"]:
                return (width, inner)
            case _:  # a layer norm's, or the bias of a product that adds to the residual stream
                return (width,)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
