"""Symmetric memory of ranks that are processes of one machine, for kernels that Triton's interpreter runs.

Its atomics are `std::atomic`'s, on the memory of the host: they are atomic between processes that share it.
"""

from __future__ import annotations

import mmap
import os

import torch

from model.network.parallel import TensorParallel


class SharedMemory:
    """`SymmetricMemory` on a CPU. Each rank has everybody's at addresses of its own."""

    addresses: torch.Tensor

    def __init__(self, count: int, device: torch.device) -> None:
        assert device.type == "cpu"
        self._file = os.memfd_create("starcoder-test")
        os.ftruncate(self._file, count)
        self._count = count
        self.own = _mapped(self._file, count)

    def meet(self, group: TensorParallel) -> None:
        files = torch.zeros(group.size, 2, dtype=torch.int64)
        files[group.rank] = torch.tensor([os.getpid(), self._file])
        self._everyones = []
        for rank, (process, file) in enumerate(group.all_reduce(files).tolist()):
            if rank == group.rank:
                self._everyones.append(self.own)
                continue
            theirs = os.open(f"/proc/{process}/fd/{file}", os.O_RDWR)
            self._everyones.append(_mapped(theirs, self._count))
            os.close(theirs)
        group.all_reduce(torch.zeros(1))  # everybody has them
        os.close(self._file)
        self.addresses = torch.tensor([one.data_ptr() for one in self._everyones])


def _mapped(file: int, count: int) -> torch.Tensor:
    return torch.frombuffer(mmap.mmap(file, count), dtype=torch.uint8)
