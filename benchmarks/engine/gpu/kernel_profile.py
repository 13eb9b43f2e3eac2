"""Where each millisecond of a step goes: the device's kernels by PyTorch's profiler, and what is left between them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.engine.gpu.context import Context, timed
from benchmarks.engine.gpu.session import Found
from benchmarks.engine.in_process import drive
from benchmarks.report import Row
from model.request import Request, SamplingParams

STEPS = 8
WARM = 3
TOP = 25
LONGEST_NAME = 90


def of_decode(context: Context, batch: int) -> Found:
    """Means of a decode step of `batch` sequences: first without the profiler, then with it."""
    loaded, sizes = context.model(), context.sizes
    # prompts are computed once before, so that all of them decode from the first step on
    engine = loaded.engine(enable_prefix_caching=True)
    prompts = loaded.prompts(batch, sizes.before)
    drive(engine, prompts, [1] * batch)
    params = SamplingParams(max_tokens=2 * STEPS + WARM + 8, temperature=0.0, ignore_eos=True)
    for number, prompt in enumerate(prompts):
        engine.add(Request(str(number), prompt, params))
    while not all(s.num_output for s in engine.sequences.values()):
        engine.step()

    def run(count: int) -> None:
        for _ in range(count):
            engine.step()

    run(WARM)
    step_ms = 1000 * timed(context, lambda: run(STEPS)) / STEPS
    return _found(context, lambda: run(STEPS), STEPS, step_ms)


def of_prefill(context: Context) -> Found:
    """One prompt's step, the second time."""
    loaded, length = context.model(), context.sizes.prompt
    engine = loaded.engine()

    def run(seed: int) -> None:
        params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
        engine.add(Request("prompt", loaded.prompts(1, length, seed)[0], params))
        while engine.has_work():
            engine.step()

    run(0)
    step_ms = 1000 * timed(context, lambda: run(1))
    return _found(context, lambda: run(2), 1, step_ms)


def _found(context: Context, run: Callable[[], None], steps: int, step_ms: float) -> Found:
    gpu = context.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as profiler:
        run()
        context.synchronize()
    times: dict[str, tuple[float, float]] = {}
    for event in profiler.key_averages():
        if gpu and event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        microseconds = event.self_device_time_total if gpu else event.self_cpu_time_total
        times[event.key[:LONGEST_NAME]] = microseconds / steps, event.count / steps
    device_ms = sum(us for us, _ in times.values()) / 1000
    rows: list[Row] = [("kernel", "us a step", "calls a step", "% of the step")]
    for name, (us, calls) in sorted(times.items(), key=lambda item: -item[1][0])[:TOP]:
        rows.append((name, f"{us:.1f}", f"{calls:g}", f"{us / step_ms / 10:.1f}"))
    metrics = {
        "step_ms": step_ms,
        "kernels_ms": device_ms,
        "between_kernels_ms": step_ms - device_ms,
        "kernels_a_step": sum(calls for _, calls in times.values()),
    }
    return Found(metrics, rows)
