"""Which models and machines the kernel runs."""

from __future__ import annotations

import torch

from model.config import ModelConfig
from model.kernels.native.library import Unavailable, library
from model.kernels.native.packing import LANES

HEAD_DIM_STEP = 64


def obstacle(config: ModelConfig, ranks: int, dtype: torch.dtype) -> str | None:
    """Why the kernel cannot run this model here, or None."""
    if dtype is not torch.bfloat16:
        return f"weights are {str(dtype).removeprefix('torch.')}, not bfloat16"
    if ranks > 1:
        return "tensor parallelism"
    if not config.multi_query:
        return "attention is not multi-query"
    if config.head_dim % HEAD_DIM_STEP or config.n_embd % LANES or config.n_inner % LANES:
        return f"heads of {config.head_dim}, width {config.n_embd}, inner width {config.n_inner}"
    try:
        library()
    except Unavailable as error:
        return str(error)
    return None
