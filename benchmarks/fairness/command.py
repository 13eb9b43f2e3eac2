"""`python -m benchmarks fairness`: service over time, first come and by tenant."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.fairness.simulator import Ask, Outcome, Simulation
from benchmarks.report import Result, Row
from benchmarks.scaling.engines import H100

PICTURE = "what each team gets over time"

POINTS = 24
"""Of a curve."""

WAYS = {"first come": False, "ours": True}


@dataclass(frozen=True)
class Load:
    """Some requests a second of one tenant, at random. prompt, output: means; each is half to one and a half of it."""

    tenant: str
    rate: float
    prompt: int = 1000
    output: int = 64
    weight: float = 1.0
    service_class: int = 1

    def asks(self, seconds: float, generator: np.random.Generator) -> list[Ask]:
        times = np.sort(generator.uniform(0, seconds, generator.poisson(self.rate * seconds)))

        def around(mean: int) -> list[int]:
            return generator.integers(mean // 2, mean + mean // 2, len(times), endpoint=True).tolist()

        sizes = zip(times.tolist(), around(self.prompt), around(self.output), strict=True)
        return [Ask(at, self.tenant, prompt, output, self.weight, self.service_class) for at, prompt, output in sizes]


SCENARIOS: dict[str, tuple[Load, ...]] = {
    "a flood": (Load("flood", 40), Load("team", 1)),
    "near the limit": (Load("flood", 16), Load("team", 1)),
    "weights 3:1": (Load("three", 20, weight=3), Load("one", 20)),
    "long and short": (Load("long", 20, prompt=4000), Load("short", 20, prompt=400)),
    "batch": (Load("batch", 20, service_class=2), Load("interactive", 8, service_class=0)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=120, help="in which requests come")
    parser.add_argument("--seed", type=int, default=0, help="of the requests")


def run(options: argparse.Namespace) -> Result:
    columns = [f"{way}, {what}" for way in WAYS for what in ("p50", "p95", "service")]
    rows: list[Row] = [("scenario", "tenant", *columns)]
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    details: list[dict[str, Any]] = []
    for name, loads in SCENARIOS.items():
        outcomes = {way: simulate(loads, told_apart, options) for way, told_apart in WAYS.items()}
        curves[name] = {
            f"{load.tenant}, {way}": curve(outcome, load.tenant, options.seconds)
            for way, outcome in outcomes.items()
            for load in loads
        }
        for load in loads:
            found = {way: figures(outcome, load.tenant, options.seconds) for way, outcome in outcomes.items()}
            details.append({"scenario": name, "tenant": load.tenant, **found})
            rows.append((name, load.tenant, *(_cell(found[way], what) for way in WAYS for what in CELLS)))
    return Result(
        "fairness",
        {"seconds": options.seconds, "seed": options.seed, "engine": vars(H100), "loads": _described()},
        {},
        tables={f"first tokens, and service within {options.seconds:g} s": rows},
        curves=curves,
        axes=("seconds", "thousand tokens"),
        details=details,
        simulated=True,
    )


def simulate(loads: tuple[Load, ...], told_apart: bool, options: argparse.Namespace) -> Outcome:
    """Until everybody has been served who came."""
    generator = np.random.default_rng(options.seed)
    asks = [ask for load in loads for ask in load.asks(options.seconds, generator)]
    return Simulation(H100, asks, told_apart).run()


def curve(outcome: Outcome, tenant: str, seconds: float) -> list[tuple[float, float]]:
    marks = np.linspace(0, seconds, POINTS + 1).tolist()
    return [(mark, outcome.served(tenant, 0.0, mark) / 1000) for mark in marks]


def figures(outcome: Outcome, tenant: str, seconds: float) -> dict[str, float]:
    """Waits of all that came, in seconds; tokens counted while requests came."""
    waits = outcome.waits[tenant]
    return {
        "p50_ttft_s": float(np.percentile(waits, 50)),
        "p95_ttft_s": float(np.percentile(waits, 95)),
        "service_tokens": outcome.served(tenant, 0.0, seconds),
    }


CELLS: dict[str, Callable[[float], str]] = {
    "p50_ttft_s": lambda seconds: f"{seconds:.2f} s",
    "p95_ttft_s": lambda seconds: f"{seconds:.2f} s",
    "service_tokens": lambda tokens: f"{tokens / 1000:,.0f} k",
}


def _cell(found: dict[str, float], what: str) -> str:
    return CELLS[what](found[what])


def _described() -> dict[str, list[dict[str, Any]]]:
    return {name: [vars(load) for load in loads] for name, loads in SCENARIOS.items()}
