"""Collectives of small tensors in main memory, between ranks of one machine: the first of them is in the middle.

gloo's go through TCP and through threads of its own that have to be woken, which takes longer than the few kilobytes of
a step that decodes, and each layer has two of them. Here a rank writes to a Unix socket and waits for what comes back.
`python -m benchmarks collectives` measures both.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from multiprocessing.connection import Connection

import torch

MOST_BYTES = 1 << 19
"""Of a tensor. All go through the first rank: larger ones are gloo's, in which each rank moves as much."""


class Star:
    """One rank's part. Every rank of a group calls the same methods in the same order, with contiguous tensors of one
    shape and type.

    All raise ConnectionError where a rank has gone.
    """

    def __init__(self, connections: Sequence[Connection], number: int, size: int) -> None:
        """Takes connections over, as `meet` returns them. number: of this rank among the `size` of the group."""
        self._number = number
        self._size = size
        self._sockets = []
        for connection in connections:
            # a connection's own calls write a length before each message, and copy it
            self._sockets.append(socket.socket(fileno=os.dup(connection.fileno())))
            connection.close()

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Sum over the ranks, in place; of half precision in float32, rounded once."""
        parts = self.gather(tensor)
        if parts is not None:
            torch.sum(parts, 0, out=tensor)
        self.broadcast(tensor)

    def gather(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """[...] -> on the first rank [size, ...], in the order of ranks; None on the others."""
        if self._number > 0:
            self._sockets[0].sendall(_bytes_of(tensor))
            return None
        parts = tensor.new_empty(self._size, *tensor.shape)
        parts[0] = tensor
        for part, other in zip(parts[1:], self._sockets, strict=True):
            _receive(other, part)
        return parts

    def broadcast(self, tensor: torch.Tensor) -> None:
        """The first rank's values on every rank, in place."""
        if self._number > 0:
            _receive(self._sockets[0], tensor)
            return
        values = _bytes_of(tensor)
        for other in self._sockets:
            other.sendall(values)

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """[...] -> [size, ...], in the order of ranks."""
        parts = self.gather(tensor)
        if parts is None:
            parts = tensor.new_empty(self._size, *tensor.shape)
        self.broadcast(parts)
        return parts

    def exchange(self, tensor: torch.Tensor) -> torch.Tensor:
        """[size, ...], one for each rank -> [size, ...], one of each."""
        parts = self.gather(tensor)
        if parts is None:
            received = torch.empty_like(tensor)
            _receive(self._sockets[0], received)
            return received
        mine, *others = parts.transpose(0, 1).contiguous()
        for part, other in zip(others, self._sockets, strict=True):
            other.sendall(_bytes_of(part))
        return mine

    def close(self) -> None:
        for one in self._sockets:
            one.close()
        self._sockets = []


def is_small(tensor: torch.Tensor) -> bool:
    """Whether a star is for it; the same on all ranks, whose tensors have one shape."""
    return tensor.nbytes <= MOST_BYTES


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _receive(source: socket.socket, tensor: torch.Tensor) -> None:
    left = _bytes_of(tensor)
    while left:
        count = source.recv_into(left)
        if not count:
            raise ConnectionError("another rank has ended in the middle of a step")
        left = left[count:]
