"""What was measured of each server as a table, with our ratio to each peer in the same run."""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers.engines import OURS, Engine
from benchmarks.report import Result, Row, number
from benchmarks.stack.asking import Shape
from benchmarks.stack.measuring import Measured

COLUMNS = {
    "tokens_per_s": "output tok/s",
    "requests_per_s": "requests/s",
    "ttft_p50_ms": "TTFT p50 ms",
    "ttft_p99_ms": "p99",
    "gap_p50_ms": "between updates p50 ms",
    "gap_p99_ms": "p99",
    "tokens_per_update": "tokens an update",
    "failed": "failed",
    "busy_cores": "cores",
    "strangers_cores": "strangers' cores",
}
COMPARED = ("tokens_per_s", "requests_per_s", "ttft_p50_ms", "ttft_p99_ms", "gap_p50_ms", "gap_p99_ms")


@dataclass
class Heard:
    """What is known of one server after all rounds. reason: why it is not measured, or not in every round."""

    engine: Engine
    reason: str | None = None
    ready_seconds: list[float] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    measured: dict[int, Measured] = field(default_factory=dict)
    """By the number of streams; several rounds are one."""

    def add(self, streams: int, measured: Measured) -> None:
        self.measured.setdefault(streams, Measured()).add(measured)

    def metrics(self, streams: int, tokens: int) -> dict[str, float]:
        """By name; nothing where it was not measured. What was not seen, such as a gap, is left out."""
        if (measured := self.measured.get(streams)) is None:
            return {}
        found = measured.metrics(Shape("", "stream", streams, tokens, 0))
        found["failed"] = len(measured.found.failed)
        if measured.found.updates:
            found["tokens_per_update"] = measured.found.tokens / measured.found.updates
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def to_json(self) -> dict[str, Any]:
        failures = [text for measured in self.measured.values() for text in measured.found.failed]
        return {
            "engine": self.engine.name,
            "reason": self.reason,
            "versions": self.versions,
            "ready_seconds": self.ready_seconds,
            "failures": list(dict.fromkeys(failures))[:5],
        }


def to_result(heard: Sequence[Heard], options: argparse.Namespace) -> Result:
    kept = ("shape", "dtype", "threads", "streams", "prompt_tokens", "tokens", "rounds", "seconds", "warmup")
    settings = {name: getattr(options, name) for name in (*kept, "serve_options", "seed")}
    metrics: dict[str, float] = {}
    samples: dict[str, list[float]] = {}
    for one in heard:
        for streams, measured in one.measured.items():
            key = f"{one.engine.name}, {streams} streams"
            metrics |= {f"{key}: {name}": value for name, value in one.metrics(streams, options.tokens).items()}
            for name in ("ttft", "e2el"):
                samples[f"{key}: {name}"] = [round(second, 5) for second in getattr(measured.found, name)]
    title = (
        f"{options.shape}, {options.dtype}, {options.threads} threads; {options.prompt_tokens} tokens in, "
        f"{options.tokens} out, streamed; streams that ask all the time"
    )
    return Result(
        "peers over HTTP",
        settings,
        metrics,
        samples,
        tables={title: speeds(heard, options.streams, options.tokens), "servers": states(heard)},
        bars={"output tok/s": {k.partition(":")[0]: v for k, v in metrics.items() if k.endswith(": tokens_per_s")}},
        details=[one.to_json() for one in heard],
        shows_metrics=False,
    )


def speeds(heard: Sequence[Heard], streams: Sequence[int], tokens: int) -> list[Row]:
    """A row for each server and load, and our figure divided by each peer's."""
    rows: list[Row] = [("streams, server", *COLUMNS.values())]
    for count in streams:
        found = {one.engine.name: one.metrics(count, tokens) for one in heard}
        rows += [(f"{count}, {name}", *(number(m.get(c)) for c in COLUMNS)) for name, m in found.items()]
        ours = found.pop(OURS.name, {})
        rows += [(f"{count}, ours / {name}", *_ratios(ours, m)) for name, m in found.items() if m]
    return rows


def _ratios(ours: dict[str, float], theirs: dict[str, float]) -> tuple[str, ...]:
    return tuple(f"{ours[c] / theirs[c]:.2f}" if c in COMPARED and c in ours and theirs.get(c) else "" for c in COLUMNS)


def states(heard: Sequence[Heard]) -> list[Row]:
    rows: list[Row] = [("server", "state", "seconds until ready", "versions")]
    for one in heard:
        seconds = number(statistics.median(one.ready_seconds)) if one.ready_seconds else "-"
        versions = ", ".join(f"{name} {version}" for name, version in one.versions.items())
        rows.append((one.engine.name, one.reason or "measured", seconds, versions or "-"))
    return rows
