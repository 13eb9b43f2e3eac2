"""This rank's slices of a checkpoint, read from disk without ever holding the whole model.

A tensor's file is opened, sliced and closed again, so at most one tensor's pages are mapped beside the shard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from model.checkpoint.files import EMBEDDING, HEAD, Checkpoint
from model.config import ModelConfig
from model.network.gpt_bigcode import GPTBigCode
from model.network.parallel import TensorParallel

Progress = Callable[[float], None]
"""Called with the share of the parameters that are loaded, 0 to 1."""
Place = Callable[[str, torch.Tensor], None]
"""Called with a parameter's name and this rank's part of it as soon as it is loaded, before the next one is read. A
tied head's weight comes last: the embedding's own tensor."""


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


@dataclass(frozen=True)
class Part:
    """The rows and columns of one checkpoint tensor that a parameter of this rank holds."""

    rows: tuple[slice, ...]
    columns: slice | None = None


def _shard(total: int, group: TensorParallel) -> slice:
    size = total // group.size
    return slice(group.rank * size, (group.rank + 1) * size)


def part_of(name: str, config: ModelConfig, group: TensorParallel) -> Part:
    """What this rank reads of checkpoint tensor `name` (without its `transformer.` prefix)."""
    width, hd = config.n_embd, config.head_dim
    heads = _shard(config.n_head, group)
    match name.split(".")[-3:]:
        case [*_, "attn", "c_attn", _]:
            if config.multi_query:
                return Part((slice(heads.start * hd, heads.stop * hd), slice(width, width + 2 * hd)))
            # the checkpoint lays q, k, v out head by head; here all q come first, then k, then v
            starts = [(head * 3 + part) * hd for part in range(3) for head in range(heads.start, heads.stop)]
            return Part(tuple(slice(start, start + hd) for start in starts))
        case [*_, "attn", "c_proj", "weight"]:
            return Part((slice(None),), slice(heads.start * hd, heads.stop * hd))
        case [*_, "mlp", "c_fc", _]:
            return Part((_shard(config.n_inner, group),))
        case [*_, "mlp", "c_proj", "weight"]:
            return Part((slice(None),), _shard(config.n_inner, group))
        case [*_, "wte" | "lm_head", "weight"]:
            rows_per_rank = -(-config.vocab_size // group.size)
            first = min(group.rank * rows_per_rank, config.vocab_size)
            last = min(first + rows_per_rank, config.vocab_size)
            return Part((slice(first, last),))
        case _:
            return Part((slice(None),))


def load_weights(share: Share, directory: Path, place: Place, progress: Progress = lambda _: None) -> int:
    """Read this rank's slices of a checkpoint. Returns their bytes; a tied head counts once.

    Raises ConfigError for a file that is cut short, a tensor that is missing or of another shape.
    """
    checkpoint = Checkpoint(directory)
    checkpoint.check(share.model)

    def read(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        part = part_of(name, share.model, share.group)
        return _read(checkpoint, checkpoint.stored_name(name), part, shape, share)

    return _place_all(share.shapes(), share.model.tie_word_embeddings, read, place, progress)


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
    names = [name for name in shapes if not (tied and name == HEAD)]
    held = 0
    embedding: torch.Tensor | None = None
    for done, name in enumerate(names, start=1):
        value = make(name, shapes[name])
        held += value.nbytes
        if name == EMBEDDING:
            embedding = value
        place(name, value)
        del value  # what `place` keeps may be smaller
        progress(done / len(names))
    if tied and embedding is not None:
        place(HEAD, embedding)
    return held


def _read(checkpoint: Checkpoint, name: str, part: Part, shape: tuple[int, ...], share: Share) -> torch.Tensor:
    with checkpoint.slices(name) as view:
        value = torch.empty(shape, dtype=share.dtype, device=share.device)
        row = 0
        for rows in part.rows:
            piece = view[rows] if part.columns is None else view[rows, part.columns]
            value[row : row + piece.shape[0]] = piece.to(device=share.device, dtype=share.dtype)
            row += piece.shape[0]
        value[row:] = 0  # the vocabulary's padding must not hold NaN
    return value
