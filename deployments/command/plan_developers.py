"""`starcoder plan --developers 50 --gpu h100`: how many GPUs people who type need, and what these cost.

`developers.py` has the method, `gpus.py` what was measured.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace

from deployments.command.developers import SPREAD, Capacity, Habits, capacity
from deployments.command.gpus import GPUS, MEASURED_GPU, MEASURED_MODEL, step_times
from deployments.command.tables import table
from deployments.options import number, positive, share
from model.config import ConfigError, EngineConfig, ModelConfig

HOURS_A_MONTH = 730

HEADINGS = ["model", "typing, an engine", "limit", "GPUs", "with one to spare", "cores around them"]
COSTS = ["USD an hour", "USD a developer and month"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    usual = Habits()
    group = parser.add_argument_group("for people who type")
    group.add_argument("--developers", metavar="N", type=positive, help="how many; needs --gpu")
    group.add_argument("--typing", metavar="X", type=share, default=1.0, help="share that types at once (default: all)")
    group.add_argument(
        "--within",
        metavar="SECONDS",
        type=number,
        default=usual.within_s,
        help="from a request to its whole answer, for 95 of 100 (default: %(default)s)",
    )
    group.add_argument(
        "--prompt-tokens",
        metavar="N",
        type=positive,
        default=usual.prompt_tokens,
        help="of a request, the file around the cursor included (default: %(default)s)",
    )
    group.add_argument(
        "--cached",
        metavar="X",
        type=share,
        default=usual.cached,
        help="share in the cache (default: %(default)s)",
    )
    group.add_argument(
        "--answer-tokens", metavar="N", type=positive, default=usual.answer_tokens, help="default: %(default)s"
    )
    group.add_argument("--usd-per-gpu-hour", metavar="USD", type=number, help="what one GPU costs")


def report(options: argparse.Namespace, models: Sequence[tuple[str, ModelConfig]]) -> int:
    """Print the table; 0 where some model is fast enough, else 1. Raises ConfigError for what was never timed."""
    if options.gpu is None:
        raise ConfigError("--developers needs --gpu: of a size alone nobody knows how fast it is")
    if options.quantization != "none" or options.dtype != "bfloat16" or options.tensor_parallel_size:
        raise ConfigError("--developers: steps were timed of bfloat16 weights on one GPU only")
    if options.draft_model is not None:
        raise ConfigError("--developers: steps were timed without a draft model only")
    if not options.within > 0:
        raise ConfigError(f"--within {options.within:g} is not above 0")
    habits = Habits(
        prompt_tokens=options.prompt_tokens,
        cached=options.cached,
        answer_tokens=options.answer_tokens,
        within_s=options.within,
    )
    found = {name: one_engine(options.gpu, name, model, habits) for name, model in models}
    rows = [[name, *_cells(each, habits, options)] for name, each in found.items()]
    headings = HEADINGS if options.usd_per_gpu_hour is None else HEADINGS + COSTS
    print(table(headings, rows, numbers={1, *range(3, len(headings))}))
    print("\n" + "\n".join(_method(options.gpu, list(found), habits)))
    return 0 if any(each is not None and each.developers for each in found.values()) else 1


def one_engine(gpu: str, name: str, model: ModelConfig, habits: Habits) -> Capacity | None:
    """Of one GPU of this name, with an engine's defaults; None where the model does not fit it.

    Raises ConfigError where the answer fills its window.
    """
    from model.checkpoint.memory import plan

    config = EngineConfig(model=name)
    memory = plan(model, config, GPUS[gpu].memory, 2)
    if not memory.fits:
        return None
    room = model.n_positions - habits.answer_tokens
    if room < 1:
        raise ConfigError(f"--answer-tokens {habits.answer_tokens} leaves no room for a prompt in {name}'s window")
    habits = replace(habits, prompt_tokens=min(habits.prompt_tokens, room))
    return capacity(step_times(gpu, model, habits.prompt_tokens), habits, config.max_num_seqs, memory.cache_tokens)


def hourly_cost(engines: int, usd_per_gpu_hour: float) -> float:
    """Of so many engines, and one to spare."""
    return (engines + 1) * usd_per_gpu_hour


def _cells(each: Capacity | None, habits: Habits, options: argparse.Namespace) -> list[str]:
    usd = options.usd_per_gpu_hour
    if each is None or not each.developers:
        why = "does not fit one GPU" if each is None else "too slow"
        return ["-", why, *["-"] * (3 if usd is None else 5)]
    typing = math.ceil(options.developers * options.typing)
    engines = each.engines(typing)
    cores = typing * habits.requests_per_s * habits.core_s
    cells = [str(each.developers), each.limit, str(engines), str(engines + 1), f"{cores:.1f}"]
    if usd is not None:
        hour = hourly_cost(engines, usd)
        cells += [f"{hour:.2f}", f"{hour * HOURS_A_MONTH / options.developers:.2f}"]
    return cells


def _method(gpu: str, models: list[str], habits: Habits) -> list[str]:
    """What is assumed, what was measured of it, and what was not."""
    lines = [
        "One GPU an engine, bfloat16. typing: people who type at the same moment. limit: what keeps an engine from",
        "more, its steps' time, its sequences (max_num_seqs), its cache, or the processes in front of it.",
        f"Each asks {habits.requests_per_s:g} times a second (simulated keystrokes), with prompts of "
        f"{habits.prompt_tokens:,} tokens, {habits.cached:.0%} of them",
        f"in the cache, for {habits.answer_tokens} tokens; the last is there within {habits.within_s:g} s for 95 of "
        f"100, {SPREAD:g} times the mean.",
        f"Measured: steps of {MEASURED_MODEL} on {GPUS[MEASURED_GPU].title}.",
    ]
    if gpu != MEASURED_GPU:
        lines.append(f"Extrapolated by data sheet, never timed: {GPUS[gpu].title}.")
    if models != [MEASURED_MODEL]:
        lines.append("Extrapolated by bytes and operations, never timed: other models; the smaller, the less sure.")
    return lines
