"""Small checkpoints with random weights, written by transformers: the independent reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

TINY: dict[str, Any] = {
    "vocab_size": 211,
    "n_positions": 256,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 8,
    "n_inner": 128,
}


def random_model(seed: int = 0, scale: float = 3.0, **shape: Any) -> GPTBigCodeForCausalLM:
    """transformers' model in float32 with weights large enough that its outputs vary with the input."""
    torch.manual_seed(seed)
    config = GPTBigCodeConfig(
        **{
            **TINY,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "initializer_range": 0.02 * scale,
            **shape,
        }
    )
    model = GPTBigCodeForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
            elif ".ln_" in name:
                parameter.normal_(1, 0.1)
    return model


def write_checkpoint(directory: Path, model: GPTBigCodeForCausalLM, **options: Any) -> Path:
    model.save_pretrained(directory, **options)
    return directory
