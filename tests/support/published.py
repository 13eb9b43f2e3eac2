"""What checkpoints of StarCoder's family say of themselves, and the same scaled down to what a test can run.

The values are those of each `config.json`, from memory of the published files, but for what is marked `checked`: found
in verbatim copies or reports of others. Whatever a file says, both forms of GELU and all its remainders are tried.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Published(NamedTuple):
    """vocab: tokens. inner: of one layer's MLP; None where the file leaves it out. checked: against a copy."""

    layers: int
    width: int
    heads: int
    positions: int
    vocab: int
    activation: str
    inner: int | None
    multi_query: bool = True
    tied: bool = True
    checked: tuple[str, ...] = ()

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    def scaled_down(self) -> dict[str, Any]:
        """What decides a model's path is kept: heads' values, the MLP's ratio, remainders of what is counted."""
        heads = 1 + (self.heads - 1) % 4
        width = heads * self.head_dim
        return {
            "n_layer": 2,
            "n_head": heads,
            "n_embd": width,
            "n_inner": None if self.inner is None else width * self.inner // self.width,
            "n_positions": 128,
            "vocab_size": 192 + self.vocab % 64,
            "activation_function": self.activation,
            "multi_query": self.multi_query,
            "tie_word_embeddings": self.tied,
            "scale_attn_weights": True,
            "attention_softmax_in_fp32": True,
            "scale_attention_softmax_in_fp32": True,
        }


_STARCODER = Published(40, 6144, 48, 8192, 49_152, "gelu", 24_576, checked=("sizes",))
_GRANITE_20B = Published(52, 6144, 48, 8192, 49_152, "gelu", 24_576)
_1B = Published(24, 2048, 16, 8192, 49_152, "gelu_pytorch_tanh", 8192)
_3B = Published(36, 2816, 22, 8192, 49_152, "gelu_pytorch_tanh", 11_264, checked=("activation",))
_7B = Published(42, 4096, 32, 8192, 49_152, "gelu_pytorch_tanh", 16_384)

PUBLISHED: dict[str, Published] = {
    "bigcode/starcoder": _STARCODER,
    "bigcode/starcoderbase": _STARCODER,
    "bigcode/starcoderplus": _STARCODER,
    "bigcode/starcoder-co-format": _STARCODER,
    "bigcode/starcoder-co-target": _STARCODER,
    "bigcode/starcoder-cxso": _STARCODER,
    "bigcode/octocoder": _STARCODER,
    "bigcode/starcoderbase-7b": _7B,
    "bigcode/starcoderbase-3b": _3B,
    "bigcode/starcoderbase-1b": _1B,
    "bigcode/tiny_starcoder_py": Published(
        20, 768, 12, 8192, 49_152, "gelu_pytorch_tanh", 3072, checked=("layers", "width", "heads")
    ),
    "bigcode/gpt_bigcode-santacoder": Published(
        24, 2048, 16, 2048, 49_280, "gelu_pytorch_tanh", 8192, checked=("every field",)
    ),
    # tuned ones have tokens of their own, and whoever adds them one by one leaves a vocabulary of any size
    "HuggingFaceH4/starchat-alpha": _STARCODER._replace(vocab=49_156),
    "HuggingFaceH4/starchat-beta": _STARCODER._replace(vocab=49_156),
    "WizardLM/WizardCoder-15B-V1.0": _STARCODER._replace(vocab=49_153),
    "WizardLM/WizardCoder-3B-V1.0": _3B._replace(vocab=49_153),
    "WizardLM/WizardCoder-1B-V1.0": _1B._replace(vocab=49_153),
    "defog/sqlcoder": _STARCODER,
    "defog/sqlcoder2": _STARCODER,
    "GeorgiaTechResearchInstitute/starcoder-gpteacher-code-instruct": _STARCODER._replace(vocab=49_153),
    "ibm-granite/granite-20b-code-base": _GRANITE_20B,
    "ibm-granite/granite-20b-code-base-8k": _GRANITE_20B,
    "ibm-granite/granite-20b-code-instruct": _GRANITE_20B,
    "ibm-granite/granite-20b-functioncalling": _GRANITE_20B,
    "ibm-granite/granite-34b-code-base": _GRANITE_20B._replace(layers=88),
    "ibm-granite/granite-34b-code-instruct": _GRANITE_20B._replace(layers=88),
}

_SMALL: dict[str, Any] = {
    "n_layer": 2,
    "n_embd": 192,
    "n_head": 3,
    "n_inner": 768,
    "n_positions": 128,
    "vocab_size": 200,
}

CONCEIVABLE: dict[str, dict[str, Any]] = {
    **{f"activation {name}": {"activation_function": name} for name in ("gelu", "gelu_python", "gelu_pytorch_tanh")},
    **{f"activation {name}": {"activation_function": name} for name in ("gelu_new", "gelu_fast", "gelu_accurate")},
    "activation gelu_python_tanh": {"activation_function": "gelu_python_tanh"},
    "activation relu": {"activation_function": "relu"},
    "unscaled attention": {"scale_attn_weights": False},
    "softmax in the weights' type": {"attention_softmax_in_fp32": False, "scale_attention_softmax_in_fp32": False},
    "softmax in float32, scaled before": {"scale_attention_softmax_in_fp32": False},
    "untied": {"tie_word_embeddings": False},
    "multi-head": {"multi_query": False},
    "multi-head, untied, erf": {"multi_query": False, "tie_word_embeddings": False, "activation_function": "gelu"},
    "no inner width": {"n_inner": None},
    "inner width of no multiple": {"n_inner": 333},
    "one head": {"n_head": 1},
    "heads of 80": {"n_embd": 240},
    "heads of 96, multi-head": {"n_embd": 288, "multi_query": False},
    "heads of 9, width 45": {"n_embd": 45, "n_head": 5},
    "more heads than are attended to at once": {"n_embd": 50 * 16, "n_head": 50, "n_inner": 96},
    "a large epsilon": {"layer_norm_epsilon": 0.1},
    **{f"a vocabulary of {size}": {"vocab_size": size} for size in (17, 193, 255)},
}
"""Whatever else a configuration may say, one thing at a time: by name, what differs from a small model's."""


def conceivable(name: str) -> dict[str, Any]:
    """A configuration whole."""
    return {**_SMALL, **CONCEIVABLE[name]}
