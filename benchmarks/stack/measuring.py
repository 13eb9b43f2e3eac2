"""One load on one server: what the client found, and the processor time of everybody meanwhile."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field

import msgspec
import numpy as np

from benchmarks.servers import ROOT, Server
from benchmarks.stack.asking import Asking, Shape
from benchmarks.stack.client import BEGIN, END
from benchmarks.stack.cpu import Meter
from benchmarks.stack.load import Found, Load

CLIENT = "client"


@dataclass
class Measured:
    """cpu: seconds by part of the server, and of the client. strangers: of whatever else ran on the machine."""

    found: Found = field(default_factory=Found)
    cpu: Counter[str] = field(default_factory=Counter)
    strangers: float = 0.0

    def add(self, other: Measured) -> None:
        self.found.add(other.found)
        self.cpu.update(other.cpu)
        self.strangers += other.strangers

    def metrics(self, shape: Shape) -> dict[str, float]:
        """By name, with units. Parts of the processor's time are in `costs`."""
        found = self.found
        metrics = {
            "ttft_p50_ms": percentile(found.ttft, 50),
            "ttft_p99_ms": percentile(found.ttft, 99),
            "e2el_p50_ms": percentile(found.e2el, 50),
            "requests_per_s": found.requests / found.seconds,
        }
        if shape.kind != "get":
            metrics["tokens_per_s"] = found.tokens / found.seconds
        if shape.kind == "stream" and shape.tokens > 1:
            metrics["updates_per_s_and_stream"] = found.updates / found.seconds / shape.streams
            metrics["gap_p50_ms"] = percentile(found.gaps, 50)
            metrics["gap_p99_ms"] = percentile(found.gaps, 99)
        metrics["busy_cores"] = sum(self.cpu.values()) / found.seconds
        metrics["strangers_cores"] = self.strangers / found.seconds
        return metrics

    def costs(self, per: int) -> dict[str, float]:
        """Microseconds of each part for each of so many."""
        return {part: seconds * 1e6 / per for part, seconds in self.cpu.items()} if per else {}


def percentile(seconds: list[float], percent: float) -> float:
    """In milliseconds; not a number where nothing was seen."""
    return float(np.percentile(seconds, percent)) * 1000 if seconds else float("nan")


def measure(
    server: Server, shape: Shape, asking: Asking, ends: list[int], *, warmup: float, seconds: float
) -> Measured:
    """Raises RuntimeError where a request failed: then nothing of it would be worth reading."""
    load = Load(
        server.port, shape.kind, shape.streams, warmup, seconds, asking.first(shape), asking.requests(shape), ends
    )
    measured = observe(server, load)
    if failed := measured.found.failed:
        raise RuntimeError(f"{server.name}, {shape.name}: {len(failed)} failed, the first: {failed[0]}")
    return measured


def observe(server: Server, load: Load) -> Measured:
    """The same, with the requests that failed."""
    with tempfile.NamedTemporaryFile(prefix="starcoder-stack-") as file:
        cpu, strangers = _ask(server, load, file.name)
        found = msgspec.json.decode(file.read(), type=Found)
    return Measured(found, Counter(cpu), strangers)


def _ask(server: Server, load: Load, file: str) -> tuple[dict[str, float], float]:
    """Run the client, which writes what it finds to the file; processor time by part, and of strangers, meanwhile."""
    command = [sys.executable, "-m", "benchmarks.stack.client", file]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(load))
            process.stdin.close()
            _expect(process, BEGIN)
            meter = Meter([server.pid], server.named() | {process.pid: CLIENT})
            _expect(process, END)
            spent = meter.elapsed(), meter.strangers()
            if process.wait() != 0:
                raise RuntimeError(f"the client ended with {process.returncode}")
            return spent
        finally:
            process.kill()


def _expect(process: subprocess.Popen[bytes], word: str) -> None:
    assert process.stdout is not None
    if (line := process.stdout.readline().decode().strip()) != word:
        raise RuntimeError(f"the client ended before {word!r}, with {line!r}")
