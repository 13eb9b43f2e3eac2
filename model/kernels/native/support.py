"""Which models and machines the kernel runs."""

from __future__ import annotations

import torch

from model.config import ModelConfig
from model.kernels.native.library import Unavailable, Variant, kernel, library, variants

WIDEST_HEAD = 1024
"""Attention has its queries and sums on the stack."""


def obstacle(config: ModelConfig, ranks: int, dtype: torch.dtype) -> str | None:
    """Why the kernel cannot run this model here, or None."""
    if dtype is not torch.bfloat16:
        return f"weights are {str(dtype).removeprefix('torch.')}, not bfloat16"
    if ranks > 1:
        return "tensor parallelism"
    if config.head_dim > WIDEST_HEAD:
        return f"heads of {config.head_dim} values, more than {WIDEST_HEAD}"
    try:
        library()
    except Unavailable as error:
        return str(error)
    return None


def runs_on_this_cpu() -> bool:
    """Whether the processor can do what the kernel asks of it, be there a compiler or not."""
    try:
        variants()
    except Unavailable:
        return False
    return True


def products() -> tuple[Variant, str | None]:
    """How the kernel multiplies here, and why not faster, if this CPU knows a faster way. Raises Unavailable."""
    found = kernel()
    return found.variant, found.shortfall
