"""`python -m benchmarks gpu`: everything that a GPU has to show, in one command of some minutes.

First the kernels against their definition on this GPU, then the engine with random weights of StarCoder's size: each
measurement is a `python -m benchmarks` command in a process of its own, with a time limit, so that one that fails costs
its own row only. transformers `generate` runs the same decode beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.report import Result, Row, number
from benchmarks.shapes import SHAPES, shape_config

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Measurement:
    """A benchmarks command and what of its metrics goes into the table."""

    name: str
    command: tuple[str, ...]
    metrics: tuple[str, ...]
    options: tuple[str, ...] = field(default=())


_DECODE = ("decode_tokens_per_s", "decode_gbytes_per_s", "decode_percent_of_copy")
_FEW = ("--num-iters-warmup", "1", "--num-iters", "3")


def measurements(attention: str) -> list[Measurement]:
    """What is run with one kind of attention."""
    common = ("--attention", attention)

    def latency(name: str, batch: int, input_len: int, output_len: int, *metrics: str) -> Measurement:
        sizes = ("--batch-size", str(batch), "--input-len", str(input_len), "--output-len", str(output_len))
        return Measurement(f"{name}, {attention}", ("latency", *sizes, *_FEW, *common), metrics)

    return [
        latency("decode, batch 1", 1, 32, 128, *_DECODE),
        latency("decode, batch 64, 512 before", 64, 512, 64, *_DECODE),
        latency("decode, batch 256, 512 before", 256, 512, 32, *_DECODE),
        latency(
            *("prefill of 2,048", 1, 2048, 1),
            *("prefill_tokens_per_s", "prefill_gflops", "prefill_percent_of_matmul"),
        ),
        Measurement(
            f"256 requests of 512 in, 128 out, {attention}",
            ("throughput", "--num-prompts", "256", "--input-len", "512", "--output-len", "128", *common),
            ("output_throughput", "total_token_throughput"),
        ),
    ]


TRANSFORMERS = """
import json, sys, time, torch
from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM
config = GPTBigCodeConfig.from_dict(json.loads(sys.argv[1]))
torch.set_default_dtype(torch.bfloat16)
with torch.device("cuda"):
    model = GPTBigCodeForCausalLM(config).eval()
found = {}
for batch, before, new in ((1, 32, 64), (64, 512, 32)):
    ids = torch.randint(100, config.vocab_size, (batch, before), device="cuda")
    def run(count):
        torch.cuda.synchronize(); started = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0,
                       min_new_tokens=count, max_new_tokens=count)
        torch.cuda.synchronize(); return time.perf_counter() - started
    run(4)
    found[f"decode, batch {batch}"] = batch * new / (run(new + 1) - run(1))
print(json.dumps(found))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=sorted(SHAPES), default="15b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--attention", nargs="+", choices=("torch", "triton"), default=["torch", "triton"])
    parser.add_argument("--transformers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--kernel-tests", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds of one measurement")


def run(options: argparse.Namespace) -> Result:
    settings = {"shape": options.shape, "attention": options.attention, "device": options.device}
    result = Result("gpu", {**settings, "gpu": gpu_name() if options.device == "cuda" else None}, {})
    rows: list[Row] = [("measurement", "value", "")]
    if options.kernel_tests:
        tests = [sys.executable, "-m", "pytest", "-q", "tests/model/test_triton_attention.py"]
        outcome, _ = _run(tests, options.timeout)
        rows.append(("Triton kernels against their definition", "right" if outcome is None else outcome, ""))
    for attention in options.attention:
        for measurement in measurements(attention):
            rows += measure(measurement, options, result)
    if options.transformers and options.device == "cuda":
        command = [sys.executable, "-c", TRANSFORMERS, json.dumps(shape_config(options.shape))]
        failure, out = _run(command, options.timeout)
        found: dict[str, Any] = {} if failure else json.loads(out.splitlines()[-1])
        rows += [("transformers generate", failure, "")] if failure else []
        for name, value in found.items():
            result.metrics[f"transformers/{name}/decode_tokens_per_s"] = value
            rows.append((f"{name}, transformers generate", number(value), "decode_tokens_per_s"))
    result.tables[f"{options.shape}, random weights"] = rows
    return result


def measure(measurement: Measurement, options: argparse.Namespace, result: Result) -> list[Row]:
    """Run it, keep all of its metrics, and return its rows of the table."""
    with tempfile.TemporaryDirectory(prefix="starcoder-bench-") as directory:
        output = Path(directory) / "result.json"
        where = ("--shape", options.shape, "--device", options.device, "--output", str(output))
        started = time.monotonic()
        failure, _ = _run([sys.executable, "-m", "benchmarks", *measurement.command, *where], options.timeout)
        if failure is not None:
            return [(measurement.name, failure, "")]
        found = json.loads(output.read_text())["metrics"]
    result.metrics |= {f"{measurement.name}/{name}": value for name, value in found.items()}
    result.metrics[f"{measurement.name}/command_seconds"] = time.monotonic() - started
    return [(measurement.name, number(found.get(name)), name) for name in measurement.metrics]


def _run(command: list[str], timeout_s: float) -> tuple[str | None, str]:
    """What went wrong in a few words, or None; and what was printed."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return f"took longer than {timeout_s:.0f} s", ""
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        return f"failed: {(lines or ['it says nothing'])[-1].strip()[:160]}", done.stdout
    return None, done.stdout


def gpu_name() -> str:
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no GPU; --device cpu tries the command itself")
    return torch.cuda.get_device_name()
