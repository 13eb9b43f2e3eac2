"""`python -m benchmarks quantization`: what 8 bits cost in quality, on real code.

Held-out code is read by the model once in bfloat16 and once for each kind of 8 bits: on a CPU int8 weights and inputs,
on a GPU int8 or fp8 weights. Compared are how well each foresees it (bits a byte; perplexity is 2 to the bits a token)
and how often it holds the same token for the likeliest as bfloat16 does.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quality.code_gaps import SourceText
from benchmarks.quality.stop_rules import CORPUS, held_out
from benchmarks.report import Result, Row, number
from model.checkpoint.hub import PICO, resolve_checkpoint
from model.config import EngineConfig, Quantization
from model.process.rank import Rank
from model.request import Request, SamplingParams
from model.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Reading:
    """What a model held of a text: bits of all tokens but the first, and its likeliest token at each place."""

    bits: float
    likeliest: list[int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=PICO, help="a checkpoint directory, a hub id, or an embedded model")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="for its held-out files")
    parser.add_argument("--tokens", type=int, default=40_000, help="read in all")
    parser.add_argument("--window", type=int, default=1024, help="tokens of one piece")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quantization", nargs="+", choices=("int8", "fp8"), default=["int8"])
    parser.add_argument(
        "--max-num-batched-tokens", type=int, help="of one step: on a GPU few rows are multiplied by another kernel"
    )
    parser.add_argument("--num-threads", type=int)
    parser.add_argument("--seed", type=int, default=0)


def pieces(sources: Sequence[SourceText], tokenizer: Tokenizer, options: argparse.Namespace) -> list[list[int]]:
    """Beginnings of random files."""
    generator = random.Random(options.seed)
    found: list[list[int]] = []
    for source in generator.sample(list(sources), len(sources)):
        ids = tokenizer.encode(source.text)[: options.window]
        if len(ids) > 1:
            found.append(ids)
        if sum(map(len, found)) >= options.tokens:
            break
    return found


def read(rank: Rank, texts: Sequence[list[int]]) -> list[Reading]:
    """One forward pass over each text."""
    engine = rank.engine()
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=1, ignore_eos=True)
    for number_, ids in enumerate(texts):
        engine.add(Request(str(number_), ids, params))
    found: dict[int, Reading] = {}
    while engine.has_work():
        for output in engine.step():
            if output.finish_reason == "abort":
                raise RuntimeError("the engine refused a text: it exceeds the window")
            if output.prompt_logprobs is not None:
                known = [entry for entry in output.prompt_logprobs if entry is not None]
                bits = -sum(entry.logprob for entry in known) / math.log(2)
                found[int(output.request_id)] = Reading(bits, [entry.top[0][0] for entry in known])
    return [found[i] for i in range(len(texts))]


def run(options: argparse.Namespace) -> Result:
    directory = resolve_checkpoint(options.model, None)
    tokenizer = Tokenizer.from_checkpoint(directory)
    sources, origin = held_out([], options.corpus)
    texts = pieces(sources, tokenizer, options)
    size = sum(len(tokenizer.decode(ids[1:]).encode()) for ids in texts)
    count = sum(len(ids) - 1 for ids in texts)
    forms: dict[str, Quantization] = {"bfloat16": "none", **{name: name for name in options.quantization}}
    readings: dict[str, list[Reading]] = {}
    held: dict[str, int] = {}
    for name, quantization in forms.items():
        config = EngineConfig(
            model=str(directory),
            dtype="bfloat16",
            device=options.device,
            cpu_kernels="native",
            quantization=quantization,
            max_num_batched_tokens=options.max_num_batched_tokens,
            num_threads=options.num_threads,
            # without a number a GPU's memory would be taken whole, and the next one found none
            num_kv_blocks=4096 if options.device == "cuda" else None,
        )
        rank = Rank(config)
        held[name] = int(str(rank.load()["parameter_bytes"]))
        readings[name] = read(rank, texts)
    bits = {name: sum(r.bits for r in found) for name, found in readings.items()}
    likeliest = {name: [token for reading in found for token in reading.likeliest] for name, found in readings.items()}
    plain = likeliest.pop("bfloat16")
    same = {
        name: 100 * sum(a == b for a, b in zip(plain, found, strict=True)) / len(plain)
        for name, found in likeliest.items()
    }
    metrics = {
        **{f"{name}_bits_per_byte": value / size for name, value in bits.items()},
        **{f"{name}_perplexity": 2 ** (value / count) for name, value in bits.items()},
        **{f"{name}_parameter_bytes": value for name, value in held.items()},
        **{f"{name}_same_likeliest_percent": share for name, share in same.items()},
        "tokens": count,
    }
    settings = {
        "model": Path(str(options.model)).name,
        "device": options.device,
        "sources": origin,
        "window": options.window,
        "seed": options.seed,
    }
    rows: list[Row] = [("", "bits a byte", "perplexity", "MB held")]
    rows += [
        (
            name,
            f"{metrics[f'{name}_bits_per_byte']:.4f}",
            f"{metrics[f'{name}_perplexity']:.4f}",
            number(held[name] / 1e6),
        )
        for name in forms
    ]
    return Result("quantization", settings, metrics, tables={f"{count:,} tokens of real code": rows})
