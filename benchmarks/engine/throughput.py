"""`python -m benchmarks throughput`: many requests at once through the engine in process, as `vllm bench throughput`.

All requests are there from the start; the engine batches them as it likes.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from benchmarks.engine.in_process import Bench, Trace, add_engine_arguments, drive, share
from benchmarks.engine.limits import Limits
from benchmarks.metrics import samples, summarize
from benchmarks.report import Result

PICTURE = "the distributions of what was observed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-prompts", type=int, default=32)
    parser.add_argument("--input-len", type=int, default=512)
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument(
        "--range-ratio",
        type=float,
        default=0.0,
        help="lengths are drawn evenly from length * (1 - R) to length * (1 + R) (default: %(default)s)",
    )
    parser.add_argument("--num-iters-warmup", type=int, default=1)
    add_engine_arguments(parser)


def lengths(mean: int, ratio: float, count: int, generator: np.random.Generator) -> list[int]:
    """At least 1 each."""
    if not 0 <= ratio < 1:
        raise ValueError("range-ratio must be at least 0 and below 1")
    low, high = int(mean * (1 - ratio)), int(mean * (1 + ratio))
    return [max(1, n) for n in generator.integers(low, high + 1, size=count).tolist()]


def run(options: argparse.Namespace) -> Result:
    generator = np.random.default_rng(options.seed)
    inputs = lengths(options.input_len, options.range_ratio, options.num_prompts, generator)
    outputs = lengths(options.output_len, options.range_ratio, options.num_prompts, generator)
    with Bench(options) as bench:
        for iteration in range(options.num_iters_warmup):
            drive(bench.engine, bench.prompts(inputs[:8], iteration + 1), [min(8, n) for n in outputs[:8]])
        trace = drive(bench.engine, bench.prompts(inputs, 0), outputs)
        found = metrics(bench, trace, bench.limits())
        return Result("throughput", bench.settings(), found, samples=samples(trace.timelines))


def metrics(bench: Bench, trace: Trace, limits: Limits | None) -> dict[str, Any]:
    """vLLM's `elapsed_time`, `requests_per_second` and `tokens_per_second`, and the fields of `serve`."""
    summary = summarize(trace.timelines, trace.seconds)
    work = bench.accounts.whole(trace)
    found: dict[str, Any] = {
        "elapsed_time": trace.seconds,
        "num_requests": len(trace.timelines),
        "total_num_tokens": int(summary["total_input_tokens"] + summary["total_output_tokens"]),
        "requests_per_second": summary["request_throughput"],
        "tokens_per_second": summary["total_token_throughput"],
        **{k: v for k, v in summary.items() if k not in ("duration", "request_throughput", "total_token_throughput")},
        "steps": len(trace.steps),
        "gflops": work.flops_per_s / 1e9,
        "gbytes_per_s": work.bytes_per_s / 1e9,
    }
    if limits is not None:
        found["percent_of_matmul"] = share(work.flops_per_s, limits.matmul_flops_per_s)
        found["percent_of_copy"] = share(work.bytes_per_s, limits.copy_bytes_per_s)
    return found
