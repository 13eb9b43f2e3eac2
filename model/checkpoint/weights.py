"""This rank's slices of a checkpoint, read from disk without ever holding the whole model.

A tensor's file is opened, sliced and closed again, so at most one tensor's pages are mapped beside the shard.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.config import ConfigError, ModelConfig
from model.network.gpt_bigcode import GPTBigCode
from model.network.parallel import TensorParallel

Progress = Callable[[float], None]
"""Called with the share of the parameters that are loaded, 0 to 1."""
Place = Callable[[str, torch.Tensor], None]
"""Called with a parameter's name and this rank's part of it as soon as it is loaded, before the next one is read. A
tied head's weight comes last: the embedding's own tensor."""
_EMBEDDING, _HEAD = "wte.weight", "lm_head.weight"


@dataclass(frozen=True)
class Share:
    """Which part of a model one rank holds, where, and as what type."""

    model: ModelConfig
    group: TensorParallel
    device: torch.device
    dtype: torch.dtype

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of this rank's parts, by the parameters' names."""
        network = GPTBigCode.without_storage(self.model, self.group)
        return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


class Checkpoint:
    """Name to tensor over one file or several, safetensors or (mapped, weights only) PyTorch's own format."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files: dict[str, Path] = {}
        for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
            index = directory / f"{stem}{suffix}.index.json"
            single = directory / f"{stem}{suffix}"
            if index.is_file():
                shards = json.loads(index.read_text())["weight_map"]
                self.files = {name: directory / shard for name, shard in shards.items()}
            elif single.is_file():
                self.files = dict.fromkeys(self._names(single), single)
            if self.files:
                break
        else:
            raise ConfigError(f"{directory} holds no weights: neither model.safetensors, nor an index of shards")
        missing = sorted({str(p) for p in self.files.values() if not p.is_file()})
        if missing:
            raise ConfigError(f"the checkpoint's index names files that are not there: {', '.join(missing)}")

    @staticmethod
    def _names(path: Path) -> list[str]:
        if path.suffix == ".bin":
            return list(torch.load(path, map_location="cpu", mmap=True, weights_only=True))
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                return list(file.keys())
        except SafetensorError as error:
            raise ConfigError(f"{path} is not a safetensors file, or cut short: {error}") from error

    def __contains__(self, name: str) -> bool:
        return name in self.files

    @contextmanager
    def slices(self, name: str) -> Iterator[Any]:
        """Something that reads from disk what it is indexed with: `view[a:b, c:d]` is a tensor."""
        path = self.files[name]
        if path.suffix == ".bin":
            yield torch.load(path, map_location="cpu", mmap=True, weights_only=True)[name]
        else:
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                yield file.get_slice(name)


@dataclass(frozen=True)
class Part:
    """The rows and columns of one checkpoint tensor that a parameter of this rank holds."""

    shape: tuple[int, ...]
    """The whole tensor's shape, to refuse a checkpoint that does not match its configuration."""
    rows: tuple[slice, ...]
    columns: slice | None = None


def _shard(total: int, group: TensorParallel) -> slice:
    size = total // group.size
    return slice(group.rank * size, (group.rank + 1) * size)


def part_of(name: str, config: ModelConfig, group: TensorParallel) -> Part:
    """What this rank reads of checkpoint tensor `name` (without its `transformer.` prefix)."""
    width, inner, hd = config.n_embd, config.n_inner, config.head_dim
    heads = _shard(config.n_head, group)
    match name.split(".")[-3:]:
        case [*_, "attn", "c_attn", kind]:
            total = width + 2 * hd if config.multi_query else 3 * width
            rows: tuple[slice, ...]
            if config.multi_query:
                rows = (slice(heads.start * hd, heads.stop * hd), slice(width, width + 2 * hd))
            else:  # the checkpoint lays q, k, v out head by head; here all q come first, then k, then v
                starts = [(head * 3 + part) * hd for part in range(3) for head in range(heads.start, heads.stop)]
                rows = tuple(slice(start, start + hd) for start in starts)
            return Part((total, width) if kind == "weight" else (total,), rows)
        case [*_, "attn", "c_proj", "weight"]:
            return Part((width, width), (slice(None),), slice(heads.start * hd, heads.stop * hd))
        case [*_, "mlp", "c_fc", kind]:
            return Part((inner, width) if kind == "weight" else (inner,), (_shard(inner, group),))
        case [*_, "mlp", "c_proj", "weight"]:
            return Part((width, inner), (slice(None),), _shard(inner, group))
        case [*_, "wte" | "lm_head", "weight"]:
            rows_per_rank = -(-config.vocab_size // group.size)
            first = min(group.rank * rows_per_rank, config.vocab_size)
            last = min(first + rows_per_rank, config.vocab_size)
            return Part((config.vocab_size, width), (slice(first, last),))
        case [*_, "wpe", "weight"]:
            return Part((config.n_positions, width), (slice(None),))
        case _:
            return Part((width,), (slice(None),))


def load_weights(share: Share, directory: Path, place: Place, progress: Progress = lambda _: None) -> int:
    """Read this rank's slices of a checkpoint. Returns their bytes; a tied head counts once.

    Raises ConfigError for a tensor that is missing or of another shape.
    """
    checkpoint = Checkpoint(directory)
    prefix = "transformer." if "transformer.wte.weight" in checkpoint else ""

    def read(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        stored = name if name == _HEAD else prefix + name
        if stored not in checkpoint:
            raise ConfigError(f"{directory}: the checkpoint has no tensor {stored!r}")
        return _read(checkpoint, stored, part_of(name, share.model, share.group), shape, share.device, share.dtype)

    tied = share.model.tie_word_embeddings or _HEAD not in checkpoint
    return _place_all(share.shapes(), tied, read, place, progress)


def random_weights(share: Share, seed: int, place: Place) -> int:
    """Noise for benchmarks, not comparable across tensor-parallel sizes. Returns its bytes; a tied head counts once."""
    generator = torch.Generator(share.device).manual_seed(seed + share.group.rank)

    def draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        value = torch.empty(shape, dtype=share.dtype, device=share.device)
        if name.endswith("bias"):
            return value.zero_()
        if ".ln_" in name or name.startswith("ln_f"):
            return value.fill_(1)
        return value.normal_(0, 0.02, generator=generator)

    return _place_all(share.shapes(), share.model.tie_word_embeddings, draw, place, lambda _: None)


def _place_all(
    shapes: dict[str, tuple[int, ...]],
    tied: bool,
    make: Callable[[str, tuple[int, ...]], torch.Tensor],
    place: Place,
    progress: Progress,
) -> int:
    names = [name for name in shapes if not (tied and name == _HEAD)]
    held = 0
    embedding: torch.Tensor | None = None
    for done, name in enumerate(names, start=1):
        value = make(name, shapes[name])
        held += value.nbytes
        if name == _EMBEDDING:
            embedding = value
        place(name, value)
        del value  # what `place` keeps may be smaller
        progress(done / len(names))
    if tied and embedding is not None:
        place(_HEAD, embedding)
    return held


def _read(
    checkpoint: Checkpoint,
    name: str,
    part: Part,
    shape: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    with checkpoint.slices(name) as view:
        found = tuple(view.shape) if isinstance(view, torch.Tensor) else tuple(view.get_shape())
        if found != part.shape:
            raise ConfigError(f"{name} is {list(found)} in the checkpoint; its config.json says {list(part.shape)}")
        value = torch.empty(shape, dtype=dtype, device=device)
        row = 0
        for rows in part.rows:
            piece = view[rows] if part.columns is None else view[rows, part.columns]
            value[row : row + piece.shape[0]] = piece.to(device=device, dtype=dtype)
            row += piece.shape[0]
        value[row:] = 0  # the vocabulary's padding must not hold NaN
    return value
