"""The random checkpoint that all engines run."""

from __future__ import annotations

import itertools
import json
import string
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from model.config import ModelConfig
from model.network.gpt_bigcode import GPTBigCode
from model.network.parallel import TensorParallel

_TOKENIZER = Path(__file__).parents[2] / "model" / "pico" / "checkpoint"


def write_checkpoint(directory: Path, config: dict[str, Any], seed: int = 0) -> Path:
    """Seeded noise in bfloat16 under transformers' names, and a small tokenizer, which some exporters insist on.

    The blocks' weights are larger than the embeddings', so that the next token depends on more than the last one and
    engines that disagree are seen. A checkpoint that is there already is kept.
    """
    if (directory / "complete").is_file():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    network = GPTBigCode.without_storage(ModelConfig.model_validate(config), TensorParallel(0, 1))
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in network.named_parameters():
        if name.startswith("lm_head"):
            continue
        value = torch.empty(parameter.shape, dtype=torch.bfloat16)
        if name.endswith("bias"):
            value.zero_()
        elif ".ln_" in name or name.startswith("ln_f"):
            value.fill_(1)
        else:
            value.normal_(0, 0.06 if name.startswith("h.") else 0.02, generator=generator)
        tensors[f"transformer.{name}"] = value
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    (directory / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 0}))
    write_tokenizer(directory, config["vocab_size"])
    (directory / "complete").touch()
    return directory


def write_tokenizer(directory: Path, vocab_size: int) -> None:
    """pico's tokenizer, with a made-up word for each id that it lacks: all that a model writes is text.

    No text is made into these words: BPE reaches what its merges make. Nothing is written where there is no tokenizer.
    """
    if not (_TOKENIZER / "tokenizer.json").is_file():
        return
    rules = json.loads((_TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = rules["model"]["vocab"]
    words = (f"\u0120{''.join(letters)}" for letters in itertools.product(string.ascii_lowercase, repeat=4))
    unknown = (word for word in words if word not in vocabulary)
    first = 1 + max([*vocabulary.values(), *(token["id"] for token in rules["added_tokens"])])
    vocabulary |= dict(zip(unknown, range(first, vocab_size), strict=False))
    (directory / "tokenizer.json").write_text(json.dumps(rules, ensure_ascii=False), encoding="utf-8")
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
