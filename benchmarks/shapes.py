"""Checkpoints by shape: what StarCoder's family looks like, filled with noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"n_layer": 2, "n_embd": 128, "n_head": 2, "n_inner": 512, "vocab_size": 4096},
    "164m": {"n_layer": 20, "n_embd": 768, "n_head": 12, "n_inner": 3072},
    "1b": {"n_layer": 24, "n_embd": 2048, "n_head": 16, "n_inner": 8192},
    "15b": {"n_layer": 40, "n_embd": 6144, "n_head": 48, "n_inner": 24576},
}
"""Nothing's, to try commands with, then tiny_starcoder_py, starcoderbase-1b and starcoder, with 49,152
tokens; all with 8,192 positions."""


def shape_config(shape: str) -> dict[str, Any]:
    """A `config.json` that our engine, transformers, vLLM and optimum read."""
    return {
        "architectures": ["GPTBigCodeForCausalLM"],
        "model_type": "gpt_bigcode",
        "vocab_size": 49_152,
        "n_positions": 8192,
        **SHAPES[shape],
        "multi_query": True,
        "activation_function": "gelu_pytorch_tanh",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "attention_softmax_in_fp32": True,
        "scale_attention_softmax_in_fp32": True,
        "tie_word_embeddings": True,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "use_cache": True,
        "torch_dtype": "bfloat16",
    }


def write_config(directory: Path, shape: str) -> Path:
    """A checkpoint directory without weights, for `load_format="random"`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(shape_config(shape), indent=2))
    return directory
