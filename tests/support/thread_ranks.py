"""A tensor-parallel group in one process: its ranks are threads that take turns, and tensors go from one to another.

Only one runs at a time, until it waits for the others in a collective: what they call need not be safe for threads.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from model.network.parallel import TensorParallel

T = TypeVar("T")
PATIENCE_S = 120.0


class Meeting:
    """Where the ranks of one group meet."""

    def __init__(self, size: int) -> None:
        self.turn = threading.Lock()
        self.barrier = threading.Barrier(size, timeout=PATIENCE_S)
        self.brought: list[torch.Tensor] = [torch.empty(0)] * size
        self.mail: list[queue.Queue[bytes | None]] = [queue.Queue() for _ in range(size)]
        self.collectives = [0] * size

    def wait(self) -> None:
        self.turn.release()
        try:
            self.barrier.wait()
        finally:
            self.turn.acquire()


class ThreadRank(TensorParallel):
    """One thread's view of the group."""

    def __init__(self, rank: int, size: int, stripes: int, meeting: Meeting) -> None:
        super().__init__(rank, size, stripes)
        self._meeting = meeting

    def _everyones(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        meeting = self._meeting
        meeting.collectives[self.rank] += 1
        meeting.brought[self.rank] = tensor.clone()
        meeting.wait()
        brought = list(meeting.brought)
        meeting.wait()
        assert all(other.shape == tensor.shape for other in brought), "ranks call different collectives"
        return brought

    def _neighbours_of(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        first = self.rank - self.stripe.own
        return self._everyones(tensor)[first : first + self.stripe.count]

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.copy_(sum(self._everyones(tensor)))  # type: ignore[arg-type]

    def gather_last_dim(self, tensor: torch.Tensor) -> torch.Tensor | None:
        parts = self._everyones(tensor)
        return torch.cat(parts, dim=-1) if self.is_first else None

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack(self._neighbours_of(tensor))

    def exchange(self, tensor: torch.Tensor) -> torch.Tensor:
        assert len(tensor) == self.stripe.count
        return torch.stack([parts[self.stripe.own] for parts in self._neighbours_of(tensor)])

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.copy_(self._everyones(tensor)[0])

    def send(self, message: bytes) -> None:
        for mail in self._meeting.mail[1:]:
            mail.put(message)

    def recv(self) -> bytes | None:
        self._meeting.turn.release()
        try:
            return self._meeting.mail[self.rank].get(timeout=PATIENCE_S)
        finally:
            self._meeting.turn.acquire()

    def close(self) -> None:
        """Rank 0: end the others' loops."""
        for mail in self._meeting.mail[1:]:
            mail.put(None)


def as_ranks(size: int, stripes: int, work: Callable[[ThreadRank], T]) -> list[T]:
    """What each rank's `work` returns. Raises what one of them raises first."""
    meeting = Meeting(size)

    def one(rank: int) -> T:
        with meeting.turn:
            try:
                return work(ThreadRank(rank, size, stripes, meeting))
            except BaseException:
                meeting.barrier.abort()
                for mail in meeting.mail:
                    mail.put(None)
                raise

    with ThreadPoolExecutor(size) as threads:
        futures = [threads.submit(one, rank) for rank in range(size)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda e: isinstance(e, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]
