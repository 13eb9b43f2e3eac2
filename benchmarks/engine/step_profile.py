"""`python -m benchmarks profile`: where each millisecond of a step goes.

The engine's own clocks (choosing the batch, the forward pass, sampling), and inside our forward pass on a CPU the
phases of a layer, summed over the layers: the first thread's time, waiting for the others included.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np

from benchmarks.engine.in_process import Bench, add_engine_arguments
from benchmarks.report import Result, Row, number
from model.backends.native import NativeBackend
from model.engine import Engine
from model.kernels.native.structures import PHASES
from model.request import Request, SamplingParams

PHASE_NAMES = {
    "embed": "embedding",
    "norm": "layer norms",
    "qkv": "query, key and value projection",
    "write": "keys and values to the cache",
    "attend": "attention",
    "proj": "attention's output projection",
    "fc": "MLP up and GELU",
    "out": "MLP down",
    "head": "vocabulary",
}


@dataclass(frozen=True)
class Shape:
    """`batch` prompts of `input_len` tokens. decode: the steps after the first token, else the prompts' steps."""

    name: str
    batch: int
    input_len: int
    decode: bool


SHAPES = (
    Shape("decode, batch 1", 1, 32, True),
    Shape("decode, batch 8", 8, 32, True),
    Shape("decode, batch 1, 2,000 before", 1, 2000, True),
    Shape("prefill of 512", 1, 512, False),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output-len", type=int, default=48, help="tokens of a sequence in the decode rows")
    add_engine_arguments(parser)


def profile(engine: Engine, prompts: list[list[int]], output_len: int, decode: bool) -> dict[str, float]:
    """Milliseconds of a step by part, means over the steps; `step` is all of it."""
    params = SamplingParams(max_tokens=output_len if decode else 1, temperature=0.0, ignore_eos=True)
    for i, prompt in enumerate(prompts):
        engine.add(Request(str(i), prompt, params))
    while decode and not all(s.num_output for s in engine.sequences.values()):
        engine.step()
    backend = engine.executor.runner.backend
    native = backend if isinstance(backend, NativeBackend) else None
    spent = np.zeros(len(PHASES), dtype=np.int64)
    if native is not None:
        native.spent = spent
    total = schedule = forward = sample = 0.0
    steps = 0
    while engine.has_work():
        started = time.perf_counter()
        engine.step()
        total += time.perf_counter() - started
        steps += 1
        if (timing := engine.timing) is not None:
            schedule, forward, sample = schedule + timing.schedule, forward + timing.forward, sample + timing.sample
    parts = {"step": total, "choosing the batch": schedule}
    if native is None:
        parts["forward pass"] = forward
    else:
        native.spent = None
        phases = dict(zip(PHASES, (spent / 1e9).tolist(), strict=True))
        parts |= {PHASE_NAMES[name]: seconds for name, seconds in phases.items()}
        parts["entering and leaving the kernel"] = forward - sum(phases.values())
    parts |= {"sampling": sample, "the rest": total - schedule - forward - sample}
    return {name: 1000 * seconds / steps for name, seconds in parts.items()}


def run(options: argparse.Namespace) -> Result:
    with Bench(options) as bench:
        found: dict[str, dict[str, float]] = {}
        for shape in SHAPES:
            for seed in range(2):  # the first run warms up
                prompts = bench.prompts([shape.input_len] * shape.batch, seed)
                found[shape.name] = profile(bench.engine, prompts, options.output_len, shape.decode)
        result = Result("profile", bench.settings(), {})
    result.metrics = {f"{shape}/{part}_ms": value for shape, parts in found.items() for part, value in parts.items()}
    head: Row = ("part", *(f"{shape}, ms" for shape in found))
    parts = [name for name in next(iter(found.values())) if name != "step"]
    result.tables["a step"] = [
        head,
        *((part, *(number(values[part]) for values in found.values())) for part in parts),
        ("all of it", *(number(values["step"]) for values in found.values())),
    ]
    return result
