"""`python -m benchmarks scaling`: replica-hours beside the share of requests whose first token came in time."""

from __future__ import annotations

import argparse
import functools
import logging
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

from benchmarks.report import Result, Row, number
from benchmarks.scaling import contenders, traces
from benchmarks.scaling.engines import H100, PICO
from benchmarks.scaling.simulator import BOUND_S, Simulation

PICTURE = "service against replica-hours"

PEOPLE = {"day": 50, "burst": 80, "bulk": 80, "bulk without priority": 80}
"""With half of the requests sharing nothing with the cache. Of those in keystrokes-pico.json 3 in 100 tokens were
computed: a company of many times as many people asks as much of the engines, and takes as much longer to simulate."""
SIZES = {H100.name: traces.Sizes(3000, 4000, jump=0.5), PICO.name: traces.Sizes(1000, 1500, jump=0.5)}
"""A prompt that is computed whole takes 210 and 270 ms at most."""
ENGINES = {"h100": H100, "pico": PICO}
CURVES = {("h100", "day"), ("h100", "burst"), ("h100", "bulk"), ("pico", "burst")}
COLD_STARTS = (30.0, 90.0, 180.0)
COLD_START = 90.0
MOST_REPLICAS = 8
HEAD = (
    "trace",
    "policy",
    "cold start",
    "replica-hours",
    "within 300 ms",
    "p50",
    "p99",
    "refused",
    "most",
    "changes",
    "bulk",
)


class Run(NamedTuple):
    """value: what the policy aims for, in its own unit; None: its default. Of "fixed": replicas."""

    engine: str
    trace: str
    policy: str
    value: float | None
    cold_start: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", nargs="+", choices=sorted(ENGINES), default=["h100", "pico"], help="engine models")
    parser.add_argument("--trace", nargs="+", choices=sorted(PEOPLE), default=list(PEOPLE), help="who asks when")
    parser.add_argument("--cold-start", nargs="+", type=float, default=list(COLD_STARTS), help="seconds")
    parser.add_argument("--people", type=int, help="as many in each trace, instead of its own number")
    parser.add_argument("--quick", action="store_true", help="the defaults of each policy only, no curves")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, default=0, help="of the traces")


def run(options: argparse.Namespace) -> Result:
    runs = [
        one
        for engine in options.engine
        for trace in options.trace
        for one in plan(engine, trace, options.cold_start, options.quick)
    ]
    measure = functools.partial(simulate, people=options.people, seed=options.seed)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(measure, runs))
    return result(options, list(zip(runs, found, strict=True)))


def plan(engine: str, trace: str, cold_starts: list[float], quick: bool) -> list[Run]:
    """Every policy's default at one cold start, and ours (in the burst, where it matters most, all) at the others.

    Where the trace has curves, what other aims lead to, and fixed numbers, at that one.
    """
    policies = ("serve", "counts", "delay")
    runs = [
        Run(engine, trace, policy, None, cold)
        for cold in cold_starts
        for policy in (policies if cold == COLD_START or trace == "burst" or len(cold_starts) == 1 else policies[2:])
    ]
    if quick:
        return runs
    if (engine, trace) not in CURVES:
        return [*runs, Run(engine, trace, "delay", 0.1, COLD_START)]
    few = trace == "day"
    curves: dict[str, tuple[float, ...]] = {
        "fixed": (2, 4, 6) if few else (1, 2, 4, 6, 8),
        "serve": (8,) if few else (4, 8, 16),
        "counts": (8,) if few else (4, 8, 16),
        "delay": (0.02, 0.2) if few else (0.02, 0.1, 0.2),
    }
    return runs + [Run(engine, trace, policy, value, COLD_START) for policy, all_ in curves.items() for value in all_]


def scaling(run: Run) -> Any:
    makers: dict[str, Callable[..., Any]] = {
        "serve": contenders.serve_default,
        "counts": contenders.counts,
        "delay": lambda most, value=None: contenders.ours(most, **({"target_queue_delay_s": value} if value else {})),
    }
    if run.policy == "fixed":
        return int(run.value or 1)
    return makers[run.policy](MOST_REPLICAS, *([] if run.value is None else [run.value]))


def simulate(run: Run, people: int | None, seed: int) -> dict[str, Any]:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    model = ENGINES[run.engine]
    sizes, count = SIZES[model.name], people or PEOPLE[run.trace]
    makers: dict[str, Callable[..., traces.Trace]] = {
        "day": traces.day,
        "burst": traces.burst,
        "bulk": functools.partial(traces.bulk, priority=1),
        "bulk without priority": functools.partial(traces.bulk, priority=0),
    }
    trace = makers[run.trace](sizes, count, seed)
    return Simulation(model, trace, scaling(run), run.cold_start).run().figures()


def result(options: argparse.Namespace, found: list[tuple[Run, dict[str, Any]]]) -> Result:
    tables: dict[str, list[Row]] = {}
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for one, figures in found:
        engine = ENGINES[one.engine].name
        rows = tables.setdefault(engine, [HEAD])
        rows.append((one.trace, named(one), f"{one.cold_start:g} s", *_cells(figures)))
        if one.cold_start == COLD_START and (one.engine, one.trace) in CURVES and not options.quick:
            line = curves.setdefault(f"{one.trace}, {engine}", {}).setdefault(LABELS[one.policy], [])
            line.append((figures["replica_hours"], figures["percent_in_time"]))
    for lines in curves.values():
        for points in lines.values():
            points.sort()
    return Result(
        "scaling",
        {
            "seed": options.seed,
            "bound_s": BOUND_S,
            "most_replicas": MOST_REPLICAS,
            "people": options.people or PEOPLE,
            "engines": {name: vars(ENGINES[name]) for name in options.engine},
        },
        {},
        tables=tables,
        curves=curves,
        axes=("replica-hours", "% of first tokens within 300 ms"),
        details=[{**one._asdict(), **figures} for one, figures in found],
        simulated=True,
    )


LABELS = {
    "fixed": "fixed number",
    "serve": "Serve's policy",
    "counts": "counts of sequences",
    "delay": "predicted delay (ours)",
}


def named(run: Run) -> str:
    if run.policy == "fixed":
        return f"fixed, {run.value:g}"
    aim = "default" if run.value is None else f"{run.value:g}" + (" s" if run.policy == "delay" else "")
    return f"{LABELS[run.policy]}, {aim}"


def _cells(figures: dict[str, Any]) -> Row:
    return (
        f"{figures['replica_hours']:.2f}",
        f"{figures['percent_in_time']:.1f} %",
        *(f"{number(figures[name])} ms" for name in ("p50_ttft_ms", "p99_ttft_ms")),
        f"{figures['percent_refused']:.1f} %",
        str(figures["peak_replicas"]),
        str(figures["changes"]),
        "-" if figures["bulk_minutes"] is None else f"{figures['bulk_minutes']:.1f} min",
    )
