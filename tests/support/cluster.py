"""`starcoder serve` as a user starts it: a process of its own, real Ray, real HTTP, on a free port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from deployments.command.ports import free_port
from deployments.command.processes import descendants
from monitoring import logs
from tests.support import leftovers
from tests.support.processes import command_line, is_gone, kill
from tests.support.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).parents[2]
START_SECONDS = 240.0
LONG: dict[str, object] = {"max_tokens": 1900, "temperature": 0.8, "ignore_eos": True}
"""Fields of a request that runs for seconds. What is greedy repeats itself here: drafts guess nine tokens in ten of it,
and it may be over before anybody has looked."""


class Cluster:
    """One running server.

    name: of the model, for clients. url: of the server. ready_seconds: from the command to its ready line.
    environment: of the command, beside ours. metrics_directory: what the server was given as metrics-dir, where it was.
    """

    def __init__(self, checkpoint: Path, log: Path, *options: str, **environment: str) -> None:
        self.name = checkpoint.name
        self.port = free_port()
        self.url = f"{'https' if '--ssl-certfile' in options else 'http'}://127.0.0.1:{self.port}"
        self.log = log
        self.ready_seconds = 0.0
        self.metrics_directory = Path()
        self._command = [
            *(sys.executable, "-m", "deployments.command.cli", "serve", "--model", str(checkpoint)),
            *("--port", str(self.port), *options),
        ]
        self.environment = environment
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Return when it is ready; fails with what it printed where it ends instead."""
        started_at = time.monotonic()
        self.launch()
        wait_until(self._ready_or_dead, self.text, START_SECONDS)
        assert self.process.poll() is None, self.text()
        self.ready_seconds = time.monotonic() - started_at

    @contextlib.contextmanager
    def running(self) -> Iterator[Cluster]:
        """Started, and stopped at the end, when what it has printed is shown."""
        try:
            self.start()
            yield self
        finally:
            print(self.text())
            self.stop()

    def launch(self) -> None:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
            )

    def _ready_or_dead(self) -> bool:
        return "Ready after" in self.text() or self.process.poll() is not None

    def text(self) -> str:
        """What the command has printed."""
        return self.log.read_text(errors="replace")

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The fields of each line of its log that tells of such an event, oldest first."""
        found = [logs.parse(line) for line in self.text().splitlines()]
        return [line for line in found if line is not None and line["event"] == event]

    def pids(self, kind: str = "") -> list[int]:
        """Processes of the server whose command line holds `kind`, for example "RankProcess"."""
        below = descendants(self.process.pid)
        leftovers.watch_directories([self.process.pid, *below])
        return sorted(pid for pid in below if kind in command_line(pid))

    def tree(self) -> list[int]:
        """The command's process, and all below it."""
        return [self.process.pid, *self.pids()]

    def leaves_nothing(self, tree: list[int]) -> None:
        """Assert that what was its tree ends, and that no directory and no listening port of it is left."""
        wait_until(lambda: all(map(is_gone, tree)), lambda: f"left: {[pid for pid in tree if not is_gone(pid)]}")
        assert leftovers.directories_of(tree) == []
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", self.port)) != 0

    def settled_pids(self, kind: str, count: int = 1) -> list[int]:
        """Once there are so many: what was replaced lives a while beside what replaces it."""
        found: list[int] = []

        def settled() -> bool:
            found[:] = self.pids(kind)
            return len(found) == count

        wait_until(settled, lambda: f"{kind}: {found}", period_s=0.05)
        return found

    def status_of_an_endless_head(self) -> int:
        """What a client is answered that goes on sending a header, until it is refused."""
        with self._connection() as connection:
            connection.sendall(b"GET /version HTTP/1.1\r\nhost: localhost\r\nx: ")
            with contextlib.suppress(OSError):
                for _ in range(1000):
                    connection.sendall(b"a" * 10_000)
            return int(connection.recv(65_536).split(b" ", 2)[1])

    def _connection(self) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        if self.url.startswith("http:"):
            return plain
        return ssl.create_default_context().wrap_socket(plain, server_hostname="127.0.0.1")

    def health(self) -> dict[str, Any] | None:
        """The body of a healthy answer, else None."""
        try:
            answer = httpx.get(f"{self.url}/health", timeout=PATIENCE_S)
        except httpx.HTTPError:
            return None
        return answer.json() if answer.status_code == 200 else None

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 180) -> int:
        """Send a signal and wait for the end; the exit code. Whatever is left after that is killed."""
        tree = self.pids() if self.process.poll() is None else []
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout_s)
        finally:
            for pid in [self.process.pid, *tree]:
                if "ray" in command_line(pid) or pid == self.process.pid:
                    kill(pid)
