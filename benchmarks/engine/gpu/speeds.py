"""Tokens a second of the loaded model: decode, prefill, and many requests at once."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from benchmarks.engine.gpu.context import Context
from benchmarks.engine.gpu.session import Found
from benchmarks.engine.in_process import Trace, drive
from benchmarks.metrics import summarize
from model.config import Quantization
from model.request import Request, SamplingParams
from monitoring.metrics import ACCEPTED_DRAFT_TOKENS, DRAFT_TOKENS

PREFILLS = 4


def decode(
    context: Context,
    batch: int,
    quantization: Quantization = "none",
    graphs: bool = True,
    sampling: SamplingParams | None = None,
    **options: Any,
) -> Found:
    """`batch` sequences of random tokens, each from its first token on. options: of the engine.

    sampling: how tokens are drawn; None: greedy.
    """
    loaded, sizes = context.model(quantization), context.sizes
    # prompts are computed once, by the run that warms up
    engine = loaded.engine(**{"enable_prefix_caching": True, **options})
    prompts = loaded.prompts(batch, sizes.before)
    with loaded.graphs(graphs):
        drive(engine, prompts, [4] * batch, sampling)
        before = engine.counters.totals()
        trace = drive(engine, prompts, [sizes.steps] * batch, sampling)
    work = loaded.accounts.decode(trace)
    times = step_seconds(trace)
    drafted, accepted = (engine.counters[c] - before[c.name] for c in (DRAFT_TOKENS, ACCEPTED_DRAFT_TOKENS))
    return Found(
        {
            "tokens_per_s": work.tokens_per_s,
            "ms_per_step": 1000 * work.seconds / len(times),
            **context.shares(work),
            "gbytes_per_s": work.bytes_per_s / 1e9,
            "median_step_ms": 1000 * statistics.median(times),
            "slowest_step_ms": 1000 * max(times),
            "steps": len(times),
            **({"percent_of_drafts_accepted": 100 * accepted / drafted} if drafted else {}),
            **context.memory(),
        }
    )


def beside_decodes(context: Context, batch: int, chunk: int, graphs: bool = True) -> Found:
    """A prompt that comes while `batch` sequences decode, in chunks of so many tokens: how long their steps take."""
    loaded, sizes = context.model(), context.sizes
    engine = loaded.engine(enable_prefix_caching=True, max_num_batched_tokens=max(16, batch + chunk))
    prompts = loaded.prompts(batch, sizes.before)
    drive(engine, prompts, [1] * batch)
    with loaded.graphs(graphs):
        endless = SamplingParams(max_tokens=sizes.window - sizes.before, temperature=0.0, ignore_eos=True)
        for number, prompt in enumerate(prompts):
            engine.add(Request(str(number), prompt, endless))
        while not all(s.num_output for s in engine.sequences.values()):
            engine.step()
        engine.step()
        [late] = loaded.prompts(1, min(8 * chunk, sizes.prompt), seed=1)
        engine.add(Request("late", late, SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)))
        ends = [time.perf_counter()]
        while "late" in engine.sequences:
            engine.step()
            ends.append(time.perf_counter())
    # the first step was under way when the prompt came
    times = np.diff(ends)[1:].tolist()
    return Found(
        {
            "median_step_ms": 1000 * statistics.median(times),
            "slowest_step_ms": 1000 * max(times),
            "prompt_tokens_per_s": len(late) / (ends[-1] - ends[0]),
            "steps": len(times),
        }
    )


def step_seconds(trace: Trace) -> list[float]:
    """Of each step after the last first token."""
    ends = [trace.prefill_end, *(step.at for step in trace.steps if step.at > trace.prefill_end)]
    return np.diff(ends).tolist()


def prefill(context: Context, quantization: Quantization = "none") -> Found:
    """One prompt, to its first token; the median of several after one that does not count."""
    loaded, length = context.model(quantization), context.sizes.prompt
    engine = loaded.engine()
    works = [loaded.accounts.prefill(drive(engine, loaded.prompts(1, length, seed), [1])) for seed in range(PREFILLS)]
    work = sorted(works[1:], key=lambda w: w.seconds)[len(works[1:]) // 2]
    return Found(
        {
            "tokens_per_s": work.tokens_per_s,
            "ms": 1000 * work.seconds,
            **context.shares(work),
            "tflops": work.flops_per_s / 1e12,
            **context.memory(),
        }
    )


def many_requests(context: Context) -> Found:
    """All there from the start, batched as the engine likes."""
    loaded = context.model()
    count, length, new = context.sizes.requests
    engine = loaded.engine()
    trace = drive(engine, loaded.prompts(count, length), [new] * count)
    work = loaded.accounts.whole(trace)
    summary = summarize(trace.timelines, trace.seconds)
    names = ("output_throughput", "total_token_throughput", "mean_ttft", "p99_ttft", "mean_tpot")
    return Found(
        {
            **{name: summary[name] for name in names if name in summary},
            "seconds": trace.seconds,
            **context.shares(work),
            **context.memory(),
        }
    )
