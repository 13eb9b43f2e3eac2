"""`python -m benchmarks latency`: one batch at a time through the engine in process, as `vllm bench latency` does.

Each iteration runs `--batch-size` prompts of `--input-len` random tokens to `--output-len` tokens. Prefill is what
happens until every request has its first token, decode is the rest.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np

from benchmarks.engine.in_process import Bench, Trace, add_engine_arguments, drive, share
from benchmarks.engine.limits import Limits
from benchmarks.metrics import distribution, samples
from benchmarks.report import Result

PICTURE = "the distributions of what was observed"

PERCENTILES = (10, 25, 50, 75, 90, 99)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input-len", type=int, default=32)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-iters-warmup", type=int, default=3)
    parser.add_argument("--num-iters", type=int, default=10)
    add_engine_arguments(parser)


def run(options: argparse.Namespace) -> Result:
    with Bench(options) as bench:
        traces = []
        for iteration in range(options.num_iters_warmup + options.num_iters):
            prompts = bench.prompts([options.input_len] * options.batch_size, iteration)
            traces.append(drive(bench.engine, prompts, [options.output_len] * len(prompts)))
        traces = traces[options.num_iters_warmup :]
        return Result(
            "latency",
            bench.settings(),
            metrics(bench, traces, bench.limits()),
            samples=samples(t for trace in traces for t in trace.timelines),
        )


def metrics(bench: Bench, traces: list[Trace], limits: Limits | None) -> dict[str, Any]:
    """`avg_latency` and `pN_latency` are seconds of a whole batch, as vLLM has them; rates are medians of iterations.

    The rate of arithmetic in prefill and of memory in decode have their share of the measured limit beside them.
    """
    seconds = [trace.seconds for trace in traces]
    found: dict[str, Any] = {"avg_latency": statistics.mean(seconds)}
    found |= {f"p{p}_latency": float(np.percentile(seconds, p)) for p in PERCENTILES}
    for name, values in samples(t for trace in traces for t in trace.timelines).items():
        found |= distribution(name, values)
    prefills, decodes = [bench.accounts.prefill(t) for t in traces], [bench.accounts.decode(t) for t in traces]
    flops = statistics.median(w.flops_per_s for w in prefills)
    read = statistics.median(w.bytes_per_s for w in decodes)
    found["prefill_tokens_per_s"] = statistics.median(w.tokens_per_s for w in prefills)
    found["prefill_gflops"] = flops / 1e9
    found["decode_tokens_per_s"] = statistics.median(w.tokens_per_s for w in decodes)
    found["decode_gbytes_per_s"] = read / 1e9
    if limits is not None:
        found["matmul_gflops_limit"] = limits.matmul_flops_per_s / 1e9
        found["prefill_percent_of_matmul"] = share(flops, limits.matmul_flops_per_s)
        found["copy_gbytes_per_s_limit"] = limits.copy_bytes_per_s / 1e9
        found["decode_percent_of_copy"] = share(read, limits.copy_bytes_per_s)
    return found
