"""`python -m benchmarks gpu`: everything that a GPU has to show, in one command of some minutes.

First the kernels against their definition on this GPU, then the engine with random weights of StarCoder's size, plain
and with 8-bit weights: each measurement is a `python -m benchmarks` command in a process of its own, with a time limit,
so that one that fails costs its own row only. transformers `generate` runs the same decode beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import Result, Row, number
from benchmarks.shapes import SHAPES, shape_config

ROOT = Path(__file__).parents[2]
KERNEL_TESTS = ("tests/model/kernels/test_triton_attention.py", "tests/model/kernels/test_triton_linear.py")


@dataclass(frozen=True)
class Measurement:
    """A benchmarks command and what of its metrics goes into the table. has_shape: it takes --shape."""

    name: str
    command: tuple[str, ...]
    metrics: tuple[str, ...]
    has_shape: bool = True


TARGET = 1.6
"""What 8-bit weights shall gain in decode at batch 1 over bfloat16."""
_DECODE = ("decode_tokens_per_s", "decode_gbytes_per_s", "decode_percent_of_copy")
_FEW = ("--num-iters-warmup", "1", "--num-iters", "3")


def measurements(attention: str, quantization: str = "none") -> list[Measurement]:
    """What is run with one kind of attention and of weights; less with 8-bit weights, which matter to decode most."""
    common = ("--attention", attention, "--quantization", quantization)
    kind = attention if quantization == "none" else f"{attention}, {quantization}"

    def latency(name: str, batch: int, input_len: int, output_len: int, *metrics: str) -> Measurement:
        sizes = ("--batch-size", str(batch), "--input-len", str(input_len), "--output-len", str(output_len))
        return Measurement(f"{name}, {kind}", ("latency", *sizes, *_FEW, *common), metrics)

    alone = latency("decode, batch 1", 1, 32, 128, *_DECODE)
    many = latency("decode, batch 64, 512 before", 64, 512, 64, *_DECODE)
    prefill = latency(
        *("prefill of 2,048", 1, 2048, 1), *("prefill_tokens_per_s", "prefill_gflops", "prefill_percent_of_matmul")
    )
    if quantization != "none":
        return [alone, many, prefill]
    return [
        alone,
        many,
        latency("decode, batch 256, 512 before", 256, 512, 32, *_DECODE),
        prefill,
        Measurement(
            f"256 requests of 512 in, 128 out, {attention}",
            ("throughput", "--num-prompts", "256", "--input-len", "512", "--output-len", "128", *common),
            ("output_throughput", "total_token_throughput"),
        ),
    ]


def comparisons(attention: str) -> list[Measurement]:
    """The same decode steps without what makes them fast, one at a time."""
    slower = {"no CUDA graphs": ("--no-cuda-graphs",), "no overlap": ("--no-async-scheduling",)}
    return [
        Measurement(f"{m.name}, {name}", (*m.command, *flags), m.metrics)
        for name, flags in slower.items()
        for m in measurements(attention)[:2]
    ]


def start(quantization: str = "none") -> Measurement:
    """From files in the page cache to the first token."""
    kind = "plain" if quantization == "none" else quantization
    metrics = ("weights_gbytes_per_s", "read_gbytes_per_s", "weights_seconds", "ready_seconds", "first_token_seconds")
    return Measurement(f"start, {kind}", ("start", "--quantization", quantization), metrics)


def products(quantization: str) -> list[Measurement]:
    """What 8-bit weights cost in quality, by the products of few rows and by those of many; and the products alone."""
    quality = [
        Measurement(
            f"the embedded model on real code, {rows} rows a step, {quantization}",
            ("quantization", "--quantization", quantization, "--max-num-batched-tokens", str(rows)),
            ("bfloat16_perplexity", f"{quantization}_perplexity", f"{quantization}_same_likeliest_percent"),
            has_shape=False,
        )
        for rows in (256, 2048)
    ]
    times = tuple(f"c_fc/{way}/{rows}_us" for rows in (1, 64) for way in ("plain", f"{quantization} kernel"))
    return [
        *quality,
        Measurement(f"single products, {quantization}", ("linear", "--quantization", quantization), times),
    ]


def gain(result: Result, attention: str, quantization: str) -> list[Row]:
    """How much faster decode at batch 1 is than with plain weights, if both were measured."""
    names = [f"decode, batch 1, {kind}/decode_tokens_per_s" for kind in (f"{attention}, {quantization}", attention)]
    quantised, plain = (result.metrics.get(name) for name in names)
    if not quantised or not plain:
        return []
    result.metrics[f"decode, batch 1, {attention}, {quantization}/over_plain"] = quantised / plain
    return [(f"decode, batch 1, {attention}, {quantization} over plain", number(quantised / plain), f"target {TARGET}")]


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
    parser.add_argument("--quantization", nargs="*", choices=("int8", "fp8"), default=["int8", "fp8"])
    parser.add_argument("--transformers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--kernel-tests", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds of one measurement")


def run(options: argparse.Namespace) -> Result:
    settings = {name: getattr(options, name) for name in ("shape", "attention", "quantization", "device")}
    result = Result("gpu", {**settings, "gpu": gpu_name() if options.device == "cuda" else None}, {})
    rows: list[Row] = [("measurement", "value", "")]
    if options.kernel_tests:
        tests = [sys.executable, "-m", "pytest", "-q", *KERNEL_TESTS]
        outcome, _ = _run(tests, options.timeout)
        rows.append(("Triton kernels against their definition", "right" if outcome is None else outcome, ""))
    for attention in options.attention:
        for measurement in measurements(attention):
            rows += measure(measurement, options, result)
    attention = options.attention[-1]
    for measurement in (*comparisons(attention), start()):
        rows += measure(measurement, options, result)
    for quantization in options.quantization:
        for measurement in (*measurements(attention, quantization), *products(quantization), start(quantization)):
            rows += measure(measurement, options, result)
        rows += gain(result, attention, quantization)
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
        shape = ("--shape", options.shape) if measurement.has_shape else ()
        where = (*shape, "--device", options.device, "--output", str(output))
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
