"""Memory of a GPU that the kernels of other ranks' GPUs read and write, by addresses.

PyTorch has it (`torch.distributed._symmetric_memory`): each rank allocates as much, hands the others what maps it, and
gets an address for each of theirs. That goes over NVLink, or whatever connects the GPUs of one machine.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist

from model.network.meeting import short_directory
from model.network.parallel import TensorParallel

MEETING_TIMEOUT = timedelta(minutes=1)
"""Where a rank fails while they meet, the others wait for it no longer; NCCL waits longer for them, to hear of it."""

_DIRECTORY = "starcoder/symmetric memory"
_ALLOW_OVERLAPPING = "TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES"


class SymmetricMemory(Protocol):
    """One rank's part; the others' stay mapped as long as it is kept."""

    own: torch.Tensor
    """uint8 [bytes], on the rank's device."""
    addresses: torch.Tensor
    """int64 [ranks], on the rank's device: where its kernels find each rank's, this one's among them, at multiples of
    16. Known once `meet` has returned."""

    def meet(self, group: TensorParallel) -> None:
        """Map the others'. Every rank of a group that has joined calls it at once."""
        ...


class CudaSymmetricMemory:
    """`SymmetricMemory` of GPUs of one machine. Raises RuntimeError where PyTorch or the driver has none."""

    addresses: torch.Tensor

    def __init__(self, count: int, device: torch.device) -> None:
        """count: bytes. Not a collective: the others need not allocate at once."""
        from torch._C._distributed_c10d import _SymmetricMemory

        # `empty` of the module would take it from a pool that gives nothing back
        self.own = _SymmetricMemory.empty_strided_p2p((count,), (1,), torch.uint8, device)
        self._handle: Any = None

    def meet(self, group: TensorParallel) -> None:
        """As `SymmetricMemory` has it. Raises RuntimeError where the GPUs cannot reach each other's memory, or where a
        rank does not come."""
        import torch.distributed._symmetric_memory as symmetric_memory

        world = dist.group.WORLD
        assert world is not None, "the group has not joined"
        with (
            group.meeting(MEETING_TIMEOUT) as store,
            _directory_of_all(store, group.is_first),
            _devices_of_one_number(),
        ):
            self._handle = symmetric_memory.rendezvous(self.own, world)
        bases = list(self._handle.buffer_ptrs)
        # releases that allocate from a pool say where the pool's memory begins
        offset = self.own.data_ptr() - bases[group.rank]
        self.addresses = torch.tensor([base + offset for base in bases], device=self.own.device)


def _devices_of_one_number() -> contextlib.AbstractContextManager[None]:
    """PyTorch takes devices for one where their numbers are equal. Ranks that see one GPU each all call it 0; which
    ranks really share one is known by its identifier (`TensorParallel.shares_gpu`)."""
    return _environment(_ALLOW_OVERLAPPING, "1")


@contextlib.contextmanager
def _directory_of_all(store: dist.Store, is_first: bool) -> Iterator[None]:
    """Where PyTorch's sockets are, each named by its process: it writes their path into 108 bytes, however long it is,
    and fails where somebody who has been killed has left one."""
    with contextlib.ExitStack() as stack:
        if is_first:
            store.set(_DIRECTORY, stack.enter_context(short_directory()))
        stack.enter_context(_environment("TMPDIR", store.get(_DIRECTORY).decode()))
        yield


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def allocate(count: int, device: torch.device) -> SymmetricMemory:
    """So many bytes. Raises RuntimeError where the device has no such memory."""
    if device.type != "cuda":
        raise RuntimeError("only GPUs have memory that other ranks' kernels reach")
    return CudaSymmetricMemory(count, device)
