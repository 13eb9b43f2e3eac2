"""The shapes of StarCoder's family by name, so that sizes can be computed without a download.

From the checkpoints' `config.json`. Servers never use this: they read the file they were given.
"""

from __future__ import annotations

from model.config import ModelConfig


def _shape(layers: int, width: int, heads: int, positions: int = 8192, vocabulary: int = 49_152) -> ModelConfig:
    return ModelConfig(
        n_layer=layers,
        n_embd=width,
        n_head=heads,
        n_inner=4 * width,
        n_positions=positions,
        vocab_size=vocabulary,
    )


FAMILY: dict[str, ModelConfig] = {
    "starcoder": _shape(40, 6144, 48),
    "starcoderbase-7b": _shape(42, 4096, 32),
    "starcoderbase-3b": _shape(36, 2816, 22),
    "starcoderbase-1b": _shape(24, 2048, 16),
    "santacoder": _shape(24, 2048, 16, positions=2048, vocabulary=49_280),
    "tiny_starcoder_py": _shape(20, 768, 12),
}

_SAME_SHAPE = {
    "starcoderbase": "starcoder",
    "starcoderplus": "starcoder",
    "gpt_bigcode-santacoder": "santacoder",
}


def known_shape(model: str) -> ModelConfig | None:
    """The shape of a hub id or bare name of the family; None for any other."""
    owner, _, name = model.rpartition("/")
    return FAMILY.get(_SAME_SHAPE.get(name, name)) if owner in ("", "bigcode") else None
