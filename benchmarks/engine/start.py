"""`python -m benchmarks start`: a cold engine, from files on disk to its first token.

A checkpoint of the shape's size is written first, in shards, as hubs store them. Its files are then read as they are
(the limit: from the page cache once they have been written, or from the disk with `--drop-cache`), and loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.engine.in_process import drive
from benchmarks.report import Result
from benchmarks.shapes import SHAPES, write_config
from model.config import EngineConfig, ModelConfig
from model.network.gpt_bigcode import GPTBigCode
from model.network.parallel import TensorParallel
from model.process.rank import Rank

CHUNK = 16 << 20
SHARD_BYTES = 4 << 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--shape", choices=sorted(SHAPES), default="164m", help="noise of this size")
    chosen.add_argument("--model", help="a checkpoint directory instead")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    parser.add_argument("--quantization", choices=("none", "int8", "fp8"), default="none")
    parser.add_argument("--num-threads", type=int, help="on CPU (default: all cores)")
    parser.add_argument("--input-len", type=int, default=32)
    parser.add_argument("--drop-cache", action="store_true", help="ask the system to forget the files before each read")
    parser.add_argument("--directory", type=Path, help="where the noise is written (default: the temporary directory)")


def run(options: argparse.Namespace) -> Result:
    with _checkpoint(options) as directory:
        files = sorted(directory.glob("*.safetensors"))
        size = sum(f.stat().st_size for f in files)
        read_seconds = _read(files, options.drop_cache)
        if options.drop_cache:
            _forget(files)
        config = EngineConfig(
            model=str(directory),
            dtype=options.dtype,
            device=options.device,
            quantization=options.quantization,
            num_threads=options.num_threads,
        )
        started = time.perf_counter()
        rank, loaded = Rank(config), [0.0]
        report = rank.load(progress=lambda _: loaded.__setitem__(0, time.perf_counter() - started))
        ready = time.perf_counter() - started
        engine = rank.engine()
        drive(engine, [list(range(1, options.input_len + 1))], [1])
        first = time.perf_counter() - started
    names = ("quantization", "num_threads", "input_len", "drop_cache")
    settings: dict[str, Any] = {name: getattr(options, name) for name in names}
    settings |= {"device": report["device"], "dtype": report["dtype"]}
    if options.model is None:
        settings["shape"] = options.shape
    return Result(
        "start",
        settings,
        {
            "checkpoint_gbytes": size / 1e9,
            "read_gbytes_per_s": size / read_seconds / 1e9,
            "weights_seconds": loaded[0],
            "weights_gbytes_per_s": size / loaded[0] / 1e9,
            "weights_percent_of_read": 100 * read_seconds / loaded[0],
            "ready_seconds": ready,
            "first_token_seconds": first,
        },
    )


@contextlib.contextmanager
def _checkpoint(options: argparse.Namespace) -> Iterator[Path]:
    if options.model is not None:
        yield Path(options.model)
        return
    with tempfile.TemporaryDirectory(prefix="starcoder-bench-", dir=options.directory) as temporary:
        yield write_noise(Path(temporary), options.shape)


def write_noise(directory: Path, shape: str) -> Path:
    """A checkpoint of this shape in bfloat16, its tensors in order in shards of 4 GiB. The noise repeats itself."""
    write_config(directory, shape)
    network = GPTBigCode.without_storage(ModelConfig.from_checkpoint(directory), TensorParallel(0, 1))
    noise = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    shard: dict[str, torch.Tensor] = {}
    names: dict[str, str] = {}
    held = 0
    for name, parameter in network.named_parameters():
        if name.startswith("lm_head"):
            continue
        if held and held + 2 * parameter.numel() > SHARD_BYTES:
            _save(shard, directory, names)
            shard, held = {}, 0
        times = -(-parameter.numel() // len(noise))
        shard[f"transformer.{name}"] = noise.repeat(times)[: parameter.numel()].view(parameter.shape).clone()
        held += 2 * parameter.numel()
    _save(shard, directory, names)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return directory


def _save(tensors: dict[str, torch.Tensor], directory: Path, names: dict[str, str]) -> None:
    file = f"model-{len(set(names.values())) + 1:05d}.safetensors"
    save_file(tensors, directory / file, metadata={"format": "pt"})
    names |= dict.fromkeys(tensors, file)


def _read(files: list[Path], drop_cache: bool) -> float:
    """Seconds of reading the files from end to end; the second time if they may come from the page cache."""
    buffer = bytearray(CHUNK)
    seconds = 0.0
    for _ in range(1 if drop_cache else 2):
        if drop_cache:
            _forget(files)
        started = time.perf_counter()
        for path in files:
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
        seconds = time.perf_counter() - started
    return seconds


def _forget(files: list[Path]) -> None:
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
