"""Engines in alternating rounds, and the table of their medians."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.engines import HERE, OURS, Engine
from benchmarks.peers.environments import last_words, variables_of
from benchmarks.peers.workloads import Workload
from benchmarks.report import Row, number

Run = Callable[[Engine], dict[str, Any]]
"""Runs an engine once in a process of its own; raises RunError."""


class RunError(RuntimeError):
    """An engine did not finish; the message is short enough for a table."""


@dataclass
class Measured:
    """What is known of one engine after all rounds. reason: why it is not measured, or not in every round."""

    engine: Engine
    samples: dict[str, list[float]] = field(default_factory=dict)
    first_tokens: dict[str, list[int]] = field(default_factory=dict)
    load_seconds: list[float] = field(default_factory=list)
    versions: dict[str, str | None] = field(default_factory=dict)
    reason: str | None = None

    def median(self, workload: Workload) -> float | None:
        values = self.samples.get(workload.name)
        return statistics.median(values) if values else None

    def add(self, result: dict[str, Any]) -> None:
        for name, values in result["samples"].items():
            self.samples.setdefault(name, []).extend(values)
        self.first_tokens = result["first_tokens"]
        self.load_seconds.append(result["load_seconds"])
        self.versions = result["versions"]

    def agreement(self, ours: Measured) -> float | None:
        """Percent of prompts whose first token is ours too; engines that run the same network agree on most."""
        pairs = [
            pair
            for name, tokens in self.first_tokens.items()
            for pair in zip(tokens, ours.first_tokens.get(name, []), strict=False)
        ]
        return 100 * sum(a == b for a, b in pairs) / len(pairs) if pairs else None

    def to_json(self) -> dict[str, Any]:
        return {
            "engine": self.engine.name,
            "reason": self.reason,
            "versions": self.versions,
            "load_seconds": self.load_seconds,
            "samples": self.samples,
        }


def compare(engines: Sequence[Measured], rounds: int, run: Run, say: Callable[[str], None] = print) -> None:
    """Every engine once a round, each round beginning with another one, so that a slow spell hits nobody alone.

    An engine that fails is left out of the rounds that follow; engines that have a reason already are not run.
    """
    for turn in range(rounds):
        shift = turn % len(engines)
        for measured in [*engines[shift:], *engines[:shift]]:
            if measured.reason is not None:
                continue
            say(f"round {turn + 1} of {rounds}: {measured.engine.name}")
            try:
                measured.add(run(measured.engine))
            except RunError as error:
                measured.reason = str(error)
                say(f"  {error}")


def run_worker(engine: Engine, python: Path, spec: dict[str, Any], scratch: Path, timeout_s: float) -> dict[str, Any]:
    """Run an engine in its own Python. Its whole process group ends with it. Raises RunError."""
    scratch.mkdir(parents=True, exist_ok=True)
    variables = variables_of(python)
    asked, answered, log = (scratch / name for name in ("spec.json", "answer.json", "worker.log"))
    asked.write_text(json.dumps({**spec, "scratch": str(scratch), "packages": list(engine.packages)}))
    # files, not pipes: processes that an engine leaves behind would hold a pipe open
    with asked.open() as stdin, answered.open("w") as stdout, log.open("w") as stderr:
        process = subprocess.Popen(
            [str(python), str(HERE / "worker.py"), str(engine.script)],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=variables,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise RunError(f"took longer than {timeout_s:.0f} s") from None
        finally:
            _end(process)
    if code:
        errors = log.read_text(errors="replace")
        raise RunError(f"failed: {last_words(errors, [scratch, Path(spec['checkpoint'])])}")
    try:
        found: dict[str, Any] = json.loads(answered.read_text())
    except json.JSONDecodeError:
        raise RunError("failed: its answer is not JSON") from None
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """What the worker started is in its group, and it may outlive it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def comparison_table(engines: Sequence[Measured], workloads: Sequence[Workload]) -> list[Row]:
    """Medians, and our ratio to the best peer: above 1 we are faster. Engines that failed are columns of dashes."""
    ours = next((m for m in engines if m.engine == OURS), None)
    rows: list[Row] = [("", *(m.engine.name for m in engines), "ratio to best peer")]
    for workload in workloads:
        values = [m.median(workload) for m in engines]
        theirs = [v for m, v in zip(engines, values, strict=True) if v is not None and m is not ours]
        own = None if ours is None else ours.median(workload)
        ratio = "-" if own is None or not theirs else f"{workload.ratio(own, workload.better(theirs)):.2f} x"
        rows.append((f"{workload.name}, {workload.unit}", *map(number, values), ratio))
    rows.append(("first tokens as ours, %", *(_agreement(m, ours) for m in engines), ""))
    return rows


def medians(engines: Sequence[Measured], workload: Workload) -> dict[str, float]:
    """Of the engines that were measured, by name."""
    found = ((m.engine.name, m.median(workload)) for m in engines)
    return {name: value for name, value in found if value is not None}


def _agreement(measured: Measured, ours: Measured | None) -> str:
    return "-" if ours is None else number(measured.agreement(ours))


def state_table(engines: Sequence[Measured]) -> list[Row]:
    rows: list[Row] = [("engine", "state", "versions")]
    for m in engines:
        versions = ", ".join(f"{name} {version}" for name, version in m.versions.items() if version)
        rows.append((m.engine.name, m.reason or ("measured" if m.samples else "installed"), versions or "-"))
    return rows
