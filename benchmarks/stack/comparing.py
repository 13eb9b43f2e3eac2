"""All loads on all servers as tables: speed, what each part costs, and ratios to a baseline."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import commit_of
from benchmarks.report import Result, Row, number
from benchmarks.servers import BASELINE, FLOOR, PRODUCT
from benchmarks.stack.asking import Shape
from benchmarks.stack.cpu import OTHERS, PARTS
from benchmarks.stack.measuring import CLIENT, Measured

COLUMNS = {
    "ttft_p50_ms": "TTFT p50 ms",
    "ttft_p99_ms": "p99",
    "updates_per_s_and_stream": "updates/s a stream",
    "gap_p99_ms": "gap p99 ms",
    "tokens_per_s": "tokens/s",
    "requests_per_s": "requests/s",
    "busy_cores": "cores",
    "strangers_cores": "strangers' cores",
}
SERVERS_OWN = (*dict.fromkeys(PARTS.values()), OTHERS, FLOOR)


class Runs:
    """What was measured, by server and load; several runs of the same are one."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        self.shapes = list(shapes)
        self._measured: dict[tuple[str, str], Measured] = {}

    def add(self, server: str, shape: Shape, measured: Measured) -> None:
        self._measured.setdefault((server, shape.name), Measured()).add(measured)

    @property
    def servers(self) -> list[str]:
        return list(dict.fromkeys(server for server, _ in self._measured))

    def of(self, server: str, shape: Shape) -> Measured:
        return self._measured[server, shape.name]


def result(options: argparse.Namespace, runs: Runs) -> Result:
    metrics: dict[str, Any] = {}
    bars: dict[str, dict[str, float]] = {"tokens a second": {}}
    tables: dict[str, list[Row]] = {}
    for server in runs.servers:
        for shape in runs.shapes:
            measured, key = runs.of(server, shape), f"{server}, {shape.name}"
            metrics |= {f"{key}: {name}": value for name, value in measured.metrics(shape).items()}
            for per, count in (("token", measured.found.tokens), ("request", measured.found.requests)):
                metrics |= {f"{key}: {p}_us_per_{per}": us for p, us in sorted(measured.costs(count).items())}
            if shape.kind != "get":
                bars["tokens a second"][key] = metrics[f"{key}: tokens_per_s"]
        tables[server] = _speed(runs, server)
    for per in ("token", "request"):
        tables[f"microseconds of processor time for each {per}"] = _costs(runs, per)
    if BASELINE in runs.servers:
        tables[f"{PRODUCT} / {BASELINE}"] = _ratios(runs)
    return Result("stack", settings(options), metrics, tables=tables, bars=bars, shows_metrics=False)


def settings(options: argparse.Namespace) -> dict[str, Any]:
    hidden = ("run", "output", "plot", "command", "baseline")
    found = {name: value for name, value in vars(options).items() if name not in hidden}
    return found | ({"baseline_commit": commit_of(Path(options.baseline))} if options.baseline else {})


def _speed(runs: Runs, server: str) -> list[Row]:
    rows: list[Row] = [("load", *COLUMNS.values())]
    for shape in runs.shapes:
        metrics = runs.of(server, shape).metrics(shape)
        rows.append((shape.name, *(number(metrics.get(name)) for name in COLUMNS)))
    return rows


def _costs(runs: Runs, per: str) -> list[Row]:
    """A row for each server and load, a column for each part of a server, all of them, and the client."""
    chosen = [shape for shape in runs.shapes if shape.measures_requests == (per == "request")]
    costs = {}
    for server in runs.servers:
        for shape in chosen:
            found = runs.of(server, shape).found
            costs[server, shape.name] = runs.of(server, shape).costs(found.tokens if per == "token" else found.requests)
    parts = [part for part in SERVERS_OWN if any(part in cost for cost in costs.values())]
    rows: list[Row] = [("server, load", *parts, "all", CLIENT)]
    for (server, name), cost in costs.items():
        shown = [cost.get(part) for part in parts]
        whole = sum(us for part, us in cost.items() if part != CLIENT)
        rows.append((f"{server}, {name}", *map(number, [*shown, whole, cost.get(CLIENT)])))
    return rows


def _ratios(runs: Runs) -> list[Row]:
    """Below 1: less of it than the baseline."""
    compared = {name: title for name, title in COLUMNS.items() if name != "strangers_cores"}
    rows: list[Row] = [("load", *compared.values(), "processor time a token or request")]
    for shape in runs.shapes:
        ours, theirs = runs.of(PRODUCT, shape), runs.of(BASELINE, shape)
        mine, other = ours.metrics(shape), theirs.metrics(shape)
        ratios = [mine[name] / other[name] if other.get(name) else None for name in compared]
        rows.append((shape.name, *map(number, [*ratios, _cost(ours, shape) / _cost(theirs, shape)])))
    return rows


def _cost(measured: Measured, shape: Shape) -> float:
    found = measured.found
    cost = measured.costs(found.requests if shape.measures_requests else found.tokens)
    return sum(us for part, us in cost.items() if part != CLIENT)
