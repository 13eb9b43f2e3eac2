"""A checkpoint's files: which tensor is where, and whether all are there. Needs no PyTorch, which takes its time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model.config import ConfigError, ModelConfig, lfs_hint

EMBEDDING, HEAD = "wte.weight", "lm_head.weight"


def parameter_names(model: ModelConfig, head: bool) -> list[str]:
    """The network's parameters, as checkpoints call them without their prefix. head: with one of its own."""
    parts = ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]
    pairs = [f"h.{layer}.{part}" for layer in range(model.n_layer) for part in parts] + ["ln_f"]
    return [
        *(EMBEDDING, "wpe.weight"),
        *(f"{name}.{kind}" for name in pairs for kind in ("weight", "bias")),
        *([HEAD] if head else []),
    ]


def stored_shape(name: str, model: ModelConfig) -> tuple[int, ...]:
    """Of a parameter as the checkpoint holds it, whole."""
    width, inner = model.n_embd, model.n_inner
    match name.split(".")[-3:]:
        case [*_, "attn", "c_attn", kind]:
            total = width + 2 * model.head_dim if model.multi_query else 3 * width
            return (total, width) if kind == "weight" else (total,)
        case [*_, "attn", "c_proj", "weight"]:
            return (width, width)
        case [*_, "mlp", "c_fc", kind]:
            return (inner, width) if kind == "weight" else (inner,)
        case [*_, "mlp", "c_proj", "weight"]:
            return (width, inner)
        case [*_, "wte" | "lm_head", "weight"]:
            return (model.vocab_size, width)
        case [*_, "wpe", "weight"]:
            return (model.n_positions, width)
        case _:
            return (width,)


class Checkpoint:
    """Name to tensor over one file or several, safetensors or (mapped, weights only) PyTorch's own format.

    Raises ConfigError where a file is missing, cut short or something else.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files: dict[str, Path] = {}
        for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
            index = directory / f"{stem}{suffix}.index.json"
            single = directory / f"{stem}{suffix}"
            if index.is_file():
                try:
                    shards = json.loads(index.read_text())["weight_map"]
                    self.files = {name: directory / shard for name, shard in shards.items()}
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ConfigError(f"{index} is no index of shards: {error}{lfs_hint(index)}") from error
            elif single.is_file():
                self.files = dict.fromkeys(self._shapes(single), single)
            if self.files:
                break
        else:
            raise ConfigError(f"{directory} holds no weights: neither model.safetensors, nor an index of shards")
        missing = sorted({str(p) for p in self.files.values() if not p.is_file()})
        if missing:
            raise ConfigError(f"the checkpoint's index names files that are not there: {', '.join(missing)}")

    def check(self, model: ModelConfig) -> None:
        """Open every file and compare every tensor with what the model needs; no weights are read.

        Raises ConfigError for a file that is cut short, a tensor that is missing or one of another shape.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        for path in sorted(set(self.files.values())):
            shapes |= self._shapes(path)
        for name in parameter_names(model, head=not model.tie_word_embeddings):
            stored, needed = self.stored_name(name), stored_shape(name, model)
            if stored not in shapes:
                raise ConfigError(f"{self.directory}: the checkpoint has no tensor {stored!r}")
            if shapes[stored] != needed:
                raise ConfigError(
                    f"{stored} is {list(shapes[stored])} in the checkpoint; its config.json says {list(needed)}"
                )

    def stored_name(self, parameter: str) -> str:
        """What the checkpoint calls a parameter of the network."""
        prefixed = f"transformer.{EMBEDDING}" in self and parameter != HEAD
        return f"transformer.{parameter}" if prefixed else parameter

    @staticmethod
    def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
        if path.suffix == ".bin":
            import torch

            try:
                tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
                return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            except Exception as error:  # the library raises what comes along
                raise ConfigError(f"{path} is no PyTorch checkpoint, or cut short: {error}{lfs_hint(path)}") from error
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            message = f"{path} is not a safetensors file, or cut short: {error}{lfs_hint(path)}"
            raise ConfigError(message) from error

    def __contains__(self, name: str) -> bool:
        return name in self.files

    @contextmanager
    def slices(self, name: str) -> Iterator[Any]:
        """Something that reads from disk what it is indexed with: `view[a:b, c:d]` is a tensor."""
        path = self.files[name]
        if path.suffix == ".bin":
            import torch

            yield torch.load(path, map_location="cpu", mmap=True, weights_only=True)[name]
        else:
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                yield file.get_slice(name)
