"""What draws the tokens: our kernel where it is right, else the definition in PyTorch's operations."""

from __future__ import annotations

import logging
import time

import torch

from model import drawing
from model.config import EngineConfig
from model.drawing import Choose

logger = logging.getLogger(__name__)


def choose_draws(config: EngineConfig, vocabulary: int, device: torch.device) -> Choose:
    """For rank 0, which alone draws: the other ranks need not agree. Compiles the kernel: seconds, the first time.

    On a CPU it is the definition, unless our kernels are interpreted there for tests; nor are there kernels of ours
    where the configuration wants PyTorch's.
    """
    if config.attention == "torch" or (device.type == "cpu" and config.attention != "triton"):
        return drawing.choose
    started = time.monotonic()
    try:
        from model.kernels import draw_check, triton_draw

        if device.type == "cpu":
            # tests compare it themselves
            return triton_draw.TritonDraw() if triton_draw.INTERPRETED else drawing.choose
        logger.info("compiling our kernel that draws tokens, and comparing it with its definition")
        reason = draw_check.fault(vocabulary, device)
    except Exception as failure:  # a compiler fails in many ways, and none of them may keep the model from serving
        reason = f"does not run here: {type(failure).__name__}: {failure}"
    if reason is not None:
        logger.warning("tokens are drawn by PyTorch's operations instead of our Triton kernel, which %s", reason)
        return drawing.choose
    logger.info("the kernel that draws tokens compiled in %.1f s", time.monotonic() - started)
    return triton_draw.TritonDraw()
