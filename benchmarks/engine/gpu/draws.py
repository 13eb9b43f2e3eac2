"""Whether our kernel draws the tokens that the definition draws, and how long both take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.engine.gpu.context import Context, timed
from benchmarks.engine.gpu.session import Found, Skip, Wrong
from benchmarks.report import Row
from model import drawing
from model.drawing import Choose
from model.request import Request, SamplingParams
from model.sampler import draw
from model.scheduling.sequence import Sequence

ROWS = 64
"""That are compared: a kind of request each, as `draw_check` mixes them."""
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "top_p": {"temperature": 0.8, "top_p": 0.95},
    "top_k, top_p": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
}
SPREADS = {"steep": 3.0, "flat": 0.5}
"""Standard deviations of logits: of one 95 % are a few thousand tokens of 49,152, of the other most of them."""
REPEATS = 8


def draws(context: Context) -> Found:
    """Random rows with mixed parameters, and microseconds a draw by the definition and by the kernel."""
    kernel, check = _kernel(context)
    gpu = context.device.type == "cuda"
    vocabulary = 49_152 if gpu else 1000
    count = ROWS if gpu else 12
    logits, table = check.random_rows(count, vocabulary)
    logits = logits.to(context.device)
    tokens, best = kernel(logits, table)
    right = check.possible(logits, table, tokens)
    defined, largest = drawing.choose(logits, table)
    right &= best.nan_to_num(7e30) == largest.nan_to_num(7e30)
    metrics: dict[str, Any] = {
        "wrong_rows": int((~right).sum()),
        "near_ties": int(((tokens != defined) & right & largest.isfinite()).sum()),
        "rows": count,
    }
    rows: list[Row] = [("rows", "logits", "asked for", "definition us", "kernel us", "launches", "of the kernel")]
    for batch in context.sizes.batches[2:]:
        for spread, kind in (*(("steep", kind) for kind in KINDS), ("flat", "top_p")):
            some = torch.randn(batch, vocabulary, device=context.device) * SPREADS[spread]
            (slow, many), (fast, few) = (
                _cost(context, some, KINDS[kind], choose) for choose in (drawing.choose, kernel)
            )
            rows.append((str(batch), spread, kind, f"{slow:.0f}", f"{fast:.0f}", f"{many:g}", f"{few:g}"))
            name = f"{batch} rows, {spread}, {kind}"
            metrics |= {f"{name}, definition_us": slow, f"{name}, kernel_us": fast, f"{name}, launches": few}
    result = Found(metrics, rows)
    if metrics["wrong_rows"]:
        raise Wrong(f"other tokens than the definition in {metrics['wrong_rows']} of {count} rows", result)
    return result


def _kernel(context: Context) -> tuple[Choose, Any]:
    """Raises Skip where it cannot run."""
    try:
        from model.kernels import draw_check, triton_draw
    except ImportError as error:
        raise Skip(f"needs the package triton: {error}") from error
    if context.device.type == "cpu" and not triton_draw.INTERPRETED:
        raise Skip("our kernel that draws needs a GPU (or TRITON_INTERPRET=1, for tests)")
    return triton_draw.TritonDraw(), draw_check


def _cost(context: Context, logits: torch.Tensor, asked: dict[str, Any], choose: Choose) -> tuple[float, float]:
    """Of one draw: microseconds, when many follow each other, and what is launched on the device."""
    request = Request("r", [1], SamplingParams(**asked))
    sequences = [Sequence(request, seed=i, arrival=i, limit=10) for i in range(len(logits))]

    def run(times: int) -> None:
        for _ in range(times):
            draw(logits, sequences, (0,), choose)

    gpu = context.device.type == "cuda"
    repeats = REPEATS if gpu else 1
    run(2 if gpu else 1)
    seconds = timed(context, lambda: run(repeats))
    return 1e6 * seconds / repeats, _launches(context, lambda: run(1)) if gpu else 0.0


def _launches(context: Context, run: Callable[[], None]) -> float:
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        context.synchronize()
    return sum(e.count for e in profiler.key_averages() if e.device_type == torch.autograd.DeviceType.CUDA)
