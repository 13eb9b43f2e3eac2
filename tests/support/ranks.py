"""A tensor-parallel group as plain processes, with a client on its socket."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from model.config import ConfigError, EngineConfig
from model.network.parallel import TensorParallel
from model.process.client import EngineClient
from model.request import Output, Request

START_SECONDS = 240.0
FORKS = multiprocessing.get_context("forkserver")
"""Ranks are forked from a process that has imported what all of them do, which takes seconds."""
FORKS.set_forkserver_preload(["tests.support.ranks", "tests.support.prepared_ranks", "model.process.rank"])

Prepare = Callable[[int], None]
"""Called in a rank's process with its number before it loads. Has to be picklable."""


def as_they_are(rank: int) -> None:
    """Changes nothing."""


def rank_process(config: EngineConfig, rank: int, pipe: Connection, socket_path: str, prepare: Prepare) -> None:
    """A process that is one rank: reports its address, its load report with peak memory and backend, then runs.

    A ConfigError is reported instead.
    """
    from model.process.rank import Rank

    one = Rank(config, rank)
    pipe.send(one.listen() if rank == 0 else None)
    address = pipe.recv()
    # Not getrusage: its peak survives fork and exec, so a child of a large process starts with that one's.
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    prepare(rank)
    try:
        report = one.load(address)
    except ConfigError as error:
        pipe.send(error)
        return
    assert one._runner is not None
    backend = type(one._runner.backend).__name__
    pipe.send({**report, "peak_growth": _memory("VmHWM") - before, "backend": backend})
    one.run(socket_path)


def _memory(field: str) -> int:
    """Bytes of this process by /proc: VmRSS now, VmHWM at the peak since it was last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


class LoneRank(TensorParallel):
    """One rank of a group whose others are not there: they say what it says, and have nothing to add."""

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def gather_last_dim(self, tensor: torch.Tensor) -> torch.Tensor | None:
        return tensor if self.is_first else None

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack([tensor] * self.stripe.count)

    def exchange(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor[[self.stripe.own] * self.stripe.count]


class RankGroup:
    """Context manager: starts `config.tensor_parallel_size` processes and ends them on every path.

    Raises an ExceptionGroup of the ConfigErrors of the ranks that refuse to start.
    """

    def __init__(self, config: EngineConfig, prepare: Prepare = as_they_are) -> None:
        self.config = config
        self.prepare = prepare
        self.reports: list[dict[str, Any]] = []

    def __enter__(self) -> RankGroup:
        self._dir = tempfile.TemporaryDirectory(prefix="sc-")
        self.socket_path = str(Path(self._dir.name) / "engine")
        self.processes, pipes = [], []
        for rank in range(self.config.tensor_parallel_size):
            ours, theirs = FORKS.Pipe()
            arguments = (self.config, rank, theirs, self.socket_path, self.prepare)
            process = FORKS.Process(target=rank_process, args=arguments)
            process.start()
            theirs.close()
            self.processes.append(process)
            pipes.append(ours)
        try:
            addresses = [self._receive(pipe) for pipe in pipes]
            for pipe in pipes:
                pipe.send(addresses[0])
            answers = [self._receive(pipe) for pipe in pipes]
            if refusals := [answer for answer in answers if isinstance(answer, ConfigError)]:
                raise ExceptionGroup("ranks refuse to start", refusals)
            self.reports = answers
        except BaseException:
            self.__exit__()
            raise
        return self

    @staticmethod
    def _receive(pipe: Connection) -> Any:
        assert pipe.poll(START_SECONDS), "a rank does not start"
        return pipe.recv()

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.is_alive():
                process.kill()
            process.join()
        self._dir.cleanup()

    def wait_ended(self, timeout_s: float = 60) -> list[int | None]:
        """Exit codes, once every rank has ended by itself."""
        for process in self.processes:
            process.join(timeout_s)
        return [process.exitcode for process in self.processes]

    def sockets(self) -> list[str]:
        """What is left in the directory of the engine's socket."""
        return os.listdir(self._dir.name)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[EngineClient]:
        client = await EngineClient.connect(self.socket_path, timeout_s=60)
        try:
            yield client
        finally:
            await client.shutdown()


async def collect(client: EngineClient, request: Request) -> list[Output]:
    return [output async for output in client.generate(request)]
