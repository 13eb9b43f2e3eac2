"""A checkpoint in files of less than 16 MB, and how they become one: ``python -m model.pico.gpu.parts --help``."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor

from model.pico.network import Network, Shape, export
from model.pico.tokenizer_training import save_tokenizer

LARGEST = 15_000_000
"""Bytes of a part."""


def weights(network: Network) -> dict[str, Tensor]:
    """The network's weights in bfloat16, on the CPU."""
    return {name: p.detach().to("cpu", torch.bfloat16).contiguous() for name, p in network.state_dict().items()}


def replace(file: Path, content: bytes) -> None:
    """Writes a file so that it is the old or the new one at any moment."""
    new = file.with_name(f".{file.name}")
    new.write_bytes(content)
    new.replace(file)


def split(found: dict[str, Tensor], largest: int = LARGEST) -> list[dict[str, Tensor]]:
    """Groups of tensors of at most `largest` bytes, in order."""
    groups: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in found.items():
        if groups[-1] and size + tensor.nbytes > largest:
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        size += tensor.nbytes
    return groups


def write(found: dict[str, Tensor], directory: Path, step: int, largest: int = LARGEST) -> None:
    """Writes the parts. Each names the step it is of, so that parts of two moments are not taken for one."""
    groups = split(found, largest)
    contents = [save(group, {"step": str(step), "parts": str(len(groups))}) for group in groups]
    for number, content in enumerate(contents):
        replace(directory / f"part-{number}.safetensors", content)


def read(directory: Path) -> dict[str, Tensor]:
    """Reads the parts. Raises ValueError where they are not all, or not of one moment."""
    found: dict[str, Tensor] = {}
    steps, files = set[str](), sorted(directory.glob("part-*.safetensors"))
    for file in files:
        with safe_open(str(file), "pt") as part:
            steps.add(f"{part.metadata()['step']} of {part.metadata()['parts']}")
            found |= {name: part.get_tensor(name) for name in part.keys()}  # noqa: SIM118 - it is no dictionary
    if len(steps) != 1 or not steps.pop().endswith(f" of {len(files)}"):
        raise ValueError(f"the parts in {directory} are not those of one checkpoint")
    return found


def join(directory: Path, data: Path, out: Path) -> None:
    """Makes the checkpoint that transformers and the engine load, with the tokenizer and corpus.json of the data."""
    training = json.loads((directory / "training.json").read_text())
    network = Network(Shape(**training["shape"]))
    network.load_state_dict(read(directory))
    export(network, out)
    save_tokenizer(Tokenizer.from_file(str(data / "tokenizer.json")), out, network.shape.n_positions)
    shutil.copyfile(directory / "training.json", out / "training.json")
    shutil.copyfile(data / "corpus.json", out / "corpus.json")


def main() -> None:
    """Joins."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=Path, required=True, help="what a run wrote")
    parser.add_argument("--data", type=Path, required=True, help="the directory of data that it was given")
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint")
    options = parser.parse_args()
    join(options.parts, options.data, options.out)


if __name__ == "__main__":
    main()
