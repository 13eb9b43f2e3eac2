"""Rank 0's main loop: commands in, steps, outputs out, over one Unix socket. Sleeps in `poll` when idle."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from model.process.wire import HEADER, Abort, Command, Ping, Pong, Report, Shutdown, Step, Submit, command, frame
from model.request import Output, Request
from model.statistics import EngineStats, GpuMemory, StepTiming

logger = logging.getLogger(__name__)

IDLE_CHECK_SECONDS = 1.0
RANK_REPLY_SECONDS = 10.0


class Ranks(Protocol):
    def ping(self, timeout_s: float) -> list[GpuMemory]: ...


class Steps(Protocol):
    """What the loop needs of `model.engine.Engine`, so that it runs without PyTorch where another engine does."""

    @property
    def timing(self) -> StepTiming | None: ...
    @property
    def executor(self) -> Ranks: ...
    def has_work(self) -> bool: ...
    def step(self) -> list[Output]: ...
    def add(self, request: Request) -> None: ...
    def abort(self, request_id: str) -> None: ...
    def stats(self) -> EngineStats: ...
    def check_integrity(self) -> None: ...


class EngineLoop:
    """Serves one engine to one client. `run` returns on shutdown, or when the client is gone."""

    def __init__(self, engine: Steps, socket_path: str, parameter_bytes: list[int]) -> None:
        self.engine = engine
        self.path = Path(socket_path)
        self.parameter_bytes = parameter_bytes
        self._received = bytearray()
        self._arrivals = select.poll()
        self._client: socket.socket

    def run(self) -> None:
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listener:
            listener.bind(os.fspath(self.path))
            listener.listen(1)
            try:
                self._client, _ = listener.accept()
            finally:
                self.path.unlink(missing_ok=True)
        with self._client:
            self._arrivals.register(self._client, select.POLLIN)
            try:
                self._serve()
            except (BrokenPipeError, ConnectionResetError):
                logger.info("the engine's client is gone; stopping")

    def _serve(self) -> None:
        while True:
            for received in self._commands():
                if isinstance(received, Shutdown):
                    return
                self._handle(received)
            if self._closed:
                return
            if self.engine.has_work():
                outputs = self.engine.step()
                self._send(Step(outputs, self._stats(), self.engine.timing))

    _closed = False

    def _commands(self) -> Iterator[Command]:
        """All commands that have arrived; when there is no work, waits for the first."""
        if not self._wait():
            return
        data = self._client.recv(1 << 20)
        self._closed = not data
        self._received += data
        while len(self._received) >= HEADER.size:
            (length,) = HEADER.unpack_from(self._received)
            end = HEADER.size + length
            if len(self._received) < end:
                return
            body = bytes(self._received[HEADER.size : end])
            del self._received[:end]
            yield command(body)

    def _wait(self) -> bool:
        """True when there is something to read. Without work it blocks, and looks for leaks once."""
        if self.engine.has_work():
            return self._comes(0)
        if not self._comes(IDLE_CHECK_SECONDS):
            self.engine.check_integrity()
            self._comes(None)
        return True

    def _comes(self, timeout_s: float | None) -> bool:
        return bool(self._arrivals.poll(None if timeout_s is None else timeout_s * 1000))

    def _handle(self, received: Command) -> None:
        match received:
            case Submit(requests):
                for request in requests:
                    self.engine.add(request)
            case Abort(request_ids):
                for request_id in request_ids:
                    self.engine.abort(request_id)
                if not self.engine.has_work():  # no step will carry the news
                    self._send(Step([], self._stats()))
            case Ping(number):
                gpus = self.engine.executor.ping(RANK_REPLY_SECONDS)
                self._send(Pong(number, self._stats(), gpus))

    def _stats(self) -> EngineStats:
        stats = self.engine.stats()
        stats.parameter_bytes = self.parameter_bytes
        return stats

    def _send(self, message: Report) -> None:
        self._client.sendall(frame(message))
