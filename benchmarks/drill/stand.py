"""One server of a drill, with its Prometheus and those who ask it: started together, and gone together."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.drill.clients import SHOWS, Asking, Load
from benchmarks.drill.failure import Failure
from benchmarks.drill.observed import Observed, prometheus
from benchmarks.running import running
from benchmarks.servers import Server, real
from deployments.command.ports import free_port
from deployments.command.processes import command_line, descendants
from model.pico import CHECKPOINT

OPTIONS = ("--device", "cpu", "--num-threads", "1")
CLIENTS_START_S = 60.0


@dataclass(frozen=True)
class ServerStand:
    """What a failure is done to, and where it is seen."""

    home: Path
    checkpoint: Path
    server: Server
    metrics_port: int
    observed: Observed
    seed: int

    @property
    def pid(self) -> int:
        return self.server.pid

    def pids(self, kind: str) -> list[int]:
        return sorted(pid for pid in descendants(self.pid) if kind in command_line(pid))

    @contextlib.contextmanager
    def clients(self, load: Load) -> Iterator[None]:
        """Raises RuntimeError where they do not start."""
        asking = Asking(f"http://127.0.0.1:{self.server.port}", load, self.seed)
        command = [sys.executable, "-m", "benchmarks.drill.clients", msgspec.json.encode(asking).decode()]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        with running(command, environment, lambda log: SHOWS in log.read_text(), start_s=CLIENTS_START_S):
            yield


@contextlib.contextmanager
def place(failure: Failure, seed: int, scrape_s: float) -> Iterator[ServerStand]:
    """The failure's server, ready, scraped and asked. Raises RuntimeError where one of them does not start."""
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="starcoder-drill-")))
        checkpoint, metrics = home / "pico", home / "metrics"
        shutil.copytree(CHECKPOINT, checkpoint)
        port = free_port()
        options = ["--model", str(checkpoint), "--metrics-dir", str(metrics), "--metrics-port", str(port)]
        options += [*OPTIONS, *failure.options]
        server = stack.enter_context(real(options, dict(failure.environment(home)), failure.command))
        observed = stack.enter_context(prometheus(home, metrics, scrape_s))
        stand = ServerStand(home, checkpoint, server, port, observed, seed)
        stack.enter_context(stand.clients(failure.background))
        yield stand
