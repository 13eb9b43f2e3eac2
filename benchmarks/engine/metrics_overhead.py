"""`python -m benchmarks metrics-overhead`: what recording costs, as a share of the step it records.

Both are measured in processor time of one thread, so that a busy machine does not blur a difference of a percent: the
steps of a batch that decodes, and everything that is done for metrics once a step: timing and cost formulas in the
engine, the timing's way through the socket, the replica's histograms for the step and for every token, and
its share of the statistics that are recorded four times a second. Values go to memory-mapped files, as in service.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.engine.in_process import Bench, add_engine_arguments, drive
from benchmarks.report import Result
from deployments.replica.service import STATS_PERIOD_S
from model.batch import Batch
from model.process.wire import HEADER, Step, frame, report
from model.scheduling.costs import StepCosts
from model.statistics import EngineCounters, EngineStats, StepTiming
from monitoring import ReplicaMetrics, init
from monitoring.metrics import FLOPS, READ_BYTES

REPEATS = 2000
LIMIT_PERCENT = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input-len", type=int, default=32)
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--num-iters", type=int, default=5)
    add_engine_arguments(parser)


def run(options: argparse.Namespace) -> Result:
    with Bench(options) as bench, tempfile.TemporaryDirectory(prefix="starcoder-bench-") as directory:
        init(Path(directory))
        try:
            step = step_seconds(bench, options)
            engine = seconds_of(engine_side(bench, options.batch_size, options.input_len))
            replica = seconds_of(replica_side(options.batch_size))
            stats = seconds_of(statistics_side()) * min(step / STATS_PERIOD_S, 1.0)
        finally:
            init(None)
        settings = bench.settings()
    recording = engine + replica + stats
    return Result(
        "metrics-overhead",
        settings,
        {
            "step_cpu_ms": step * 1e3,
            "engine_us_a_step": engine * 1e6,
            "replica_us_a_step": replica * 1e6,
            "statistics_us_a_step": stats * 1e6,
            "engine_percent_of_step": 100 * engine / step,
            "all_percent_of_step": 100 * recording / step,
            "limit_percent": LIMIT_PERCENT,
        },
    )


def step_seconds(bench: Bench, options: argparse.Namespace) -> float:
    """Processor time of one step of a batch, mostly decoding; the median of the iterations, the first left out."""
    found = []
    for iteration in range(options.num_iters + 1):
        prompts = bench.prompts([options.input_len] * options.batch_size, iteration)
        started = time.thread_time()
        trace = drive(bench.engine, prompts, [options.output_len] * len(prompts))
        found.append((time.thread_time() - started) / len(trace.steps))
    return statistics.median(found[1:])


def seconds_of(work: Callable[[], object]) -> float:
    """Processor time of one call, the best of several rounds."""
    rounds = []
    for _ in range(5):
        started = time.thread_time()
        for _ in range(REPEATS):
            work()
        rounds.append((time.thread_time() - started) / REPEATS)
    return min(rounds)


def engine_side(bench: Bench, sequences: int, context: int) -> Callable[[], object]:
    """What the engine adds to a step: clocks, costs, and the timing in its message, beside the same without it."""
    costs = StepCosts(bench.model, int(str(bench.report["parameter_bytes"])), bench.dtype.itemsize)
    ones = np.ones(sequences, dtype=np.int64)
    batch = Batch(
        ones, ones * context, ones, ones, ones * (context + 1), ones[:, None], np.arange(sequences), sequences
    )
    counters = EngineCounters()

    def work() -> None:
        for _ in range(5):
            time.perf_counter()
        counters.add(READ_BYTES, float(costs.read_bytes(batch)))
        counters.add(FLOPS, float(costs.flops(batch)))
        bench.engine.scheduler.oldest_waiting()
        stats = EngineStats(totals=counters.totals())
        frame(Step([], stats, StepTiming(sequences, sequences, 0.02, 0.001, 0.015, 0.003)))

    return work


def replica_side(sequences: int) -> Callable[[], object]:
    """What the replica records for a step: its timing, and a token of each sequence."""
    metrics = ReplicaMetrics("benchmark")
    requests = metrics.of()
    stats = EngineStats(totals=EngineCounters().totals())
    body = frame(Step([], stats, StepTiming(sequences, sequences, 0.02, 0.001, 0.015, 0.003)))[HEADER.size :]

    def work() -> None:
        received = report(body)
        assert isinstance(received, Step)
        assert received.timing is not None
        metrics.step(received.timing)
        for _ in range(sequences):
            requests.inter_token(0.02)

    return work


def statistics_side() -> Callable[[], object]:
    metrics = ReplicaMetrics("benchmark")
    stats = EngineStats(kv_blocks_total=100, totals=EngineCounters().totals())
    return lambda: metrics.engine_stats(stats)
