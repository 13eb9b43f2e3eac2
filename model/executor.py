"""A step on every rank: rank 0's handle on all of them, and the loop in which the others follow it."""

from __future__ import annotations

import time

import msgspec
import torch

from model.batch import Batch
from model.drawing import Choose
from model.runner import Runner
from model.statistics import GpuMemory

PING = b"ping"


class ForwardTimer:
    """Seconds of one forward pass. A GPU works on after the call returns, so its own clock is asked there."""

    def __init__(self, device: torch.device) -> None:
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        if device.type == "cuda":
            self._events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            self._events[0].record()
        self._started = time.perf_counter()
        self._called = 0.0

    def stop(self) -> None:
        if self._events is not None:
            self._events[1].record()
        self._called = time.perf_counter() - self._started

    def seconds(self) -> float:
        """Of the call alone where the GPU has not finished the pass yet, since nobody waited for it."""
        if self._events is not None and self._events[1].query():
            return self._events[0].elapsed_time(self._events[1]) / 1000
        return self._called


class Executor:
    """Rank 0's handle on all ranks: every batch runs everywhere."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.group = runner.group
        self.timer = ForwardTimer(runner.device)
        """Of the last `run`. Ask it once the logits have been read."""

    def run(self, batch: Batch) -> torch.Tensor | None:
        """Start a step; on a GPU it may go on after the call.

        Returns logits [R, vocabulary] in float32, or None where no row wants any; the next call may overwrite them.
        """
        self.timer = ForwardTimer(self.runner.device)
        if self.group.size > 1:
            self.group.send(batch.to_bytes())
        logits = self.runner.run(batch)
        self.timer.stop()
        return logits

    @property
    def late_compilations(self) -> int:
        """Of this rank's backend; the others run the same steps, and compile what this one does."""
        return self.runner.backend.late_compilations

    @property
    def choose_tokens(self) -> Choose:
        """How rank 0 draws from logits."""
        assert self.runner.choose_tokens is not None, "only rank 0 draws"
        return self.runner.choose_tokens

    def broadcast(self, tokens: torch.Tensor) -> None:
        """Give every rank what was drawn of the step just run, whose `broadcasts` is its length [R]."""
        self.runner.receive(len(tokens), tokens)

    def free_memory(self) -> None:
        """Give the driver back what the allocator keeps: in pieces, it may not hold a tensor that it has room for."""
        if self.runner.device.type == "cuda":
            torch.cuda.empty_cache()

    def ping(self, timeout_s: float) -> list[GpuMemory]:
        """Ask every rank for a sign of life, and for its GPU. Raises TimeoutError or EOFError."""
        self.group.send(PING)
        replies = [msgspec.msgpack.decode(r, type=GpuMemory | None) for r in self.group.replies(timeout_s)]
        return [gpu for gpu in (self.runner.gpu_memory(), *replies) if gpu is not None]


def run_worker(runner: Runner) -> None:
    """The other ranks' loop: run what rank 0 sends, until it closes the wire."""
    while (message := runner.group.recv()) is not None:
        if message == PING:
            runner.group.reply(msgspec.msgpack.encode(runner.gpu_memory()))
        else:
            batch = Batch.from_bytes(message)
            runner.run(batch)
            if batch.broadcasts:
                runner.receive(batch.broadcasts)
