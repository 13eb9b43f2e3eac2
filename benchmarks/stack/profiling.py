"""`python -m benchmarks stack --profile`: which functions of which process take the processor's time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.report import Result, Row, number
from benchmarks.servers import PRODUCT, Server, product
from benchmarks.stack.asking import Shape
from benchmarks.stack.cpu import part_of
from benchmarks.stack.measuring import Measured
from benchmarks.stack.sampler import Profile, Samples
from deployments.command.processes import command_line, descendants

PROFILED = ("ingress", "replica")
"""Processes in Python that every request passes through, where HAProxy takes it."""

MOST = 40
PATIENCE_S = 10.0
ATTEMPTS = 4


def profile(
    directory: Path, options: Sequence[str], shape: Shape, measure: Callable[[Server, Shape], Measured]
) -> tuple[Measured, dict[str, Samples]]:
    """One load on one server; its samples by part. A server that the samples have ended is started anew."""
    for attempt in range(ATTEMPTS):
        taking = Profile(directory / str(attempt))
        with product(PRODUCT, options=options, environment=taking.environment) as server:
            pids = {part: pid for pid in descendants(server.pid) if (part := part_of(command_line(pid))) in PROFILED}
            try:
                with taking.taking():
                    measured = measure(server, shape)
                return measured, _written(taking, pids)
            except RuntimeError:
                if attempt + 1 == ATTEMPTS:
                    raise
    raise AssertionError


def _written(taking: Profile, pids: dict[str, int]) -> dict[str, Samples]:
    """Once every part has written its samples. Raises RuntimeError where one does not."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = {part: samples for part, pid in pids.items() if (samples := taking.read(pid)) is not None}
        if set(found) == set(PROFILED):
            return found
        if time.monotonic() > deadline:
            raise RuntimeError("a process has not written its samples")
        time.sleep(0.05)


def result(settings: dict[str, object], shape: Shape, measured: Measured, found: dict[str, Samples]) -> Result:
    """Shares of a process's time: cumulative, of the function alone, and of its threads."""
    tables: dict[str, list[Row]] = {}
    for part in PROFILED:
        samples = found[part]
        cumulative, own = samples.cumulative(), samples.own()
        tables[f"{part}: {samples.count} samples of Python's threads"] = [
            ("function", "with what it calls", "alone"),
            *((name, _share(of, samples), _share(own[name], samples)) for name, of in cumulative.most_common(MOST)),
        ]
        tables[f"{part}: alone"] = [
            ("function", "alone"),
            *((name, _share(of, samples)) for name, of in own.most_common(MOST)),
        ]
        threads = sorted(samples.threads.items(), key=lambda each: -each[1])
        tables[f"{part}: threads"] = [("thread", "seconds"), *((n, f"{s:.2f}") for n, s in threads if s > 0.01)]
    metrics = measured.metrics(shape)
    tables[shape.name] = [("metric", "value"), *((name, number(value)) for name, value in metrics.items())]
    return Result("stack", settings, dict(metrics), tables=tables, shows_metrics=False)


def _share(count: int, samples: Samples) -> str:
    return f"{count / samples.count:.1%}" if samples.count else "-"
