"""Moving small arrays to a device and back without waiting for what it is doing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_OUT_OF_MEMORY = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",  # of what PyTorch's allocator does not give: pinned memory, graphs, events
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)
"""What PyTorch says in plain RuntimeErrors."""


def to_device(values: npt.NDArray[Any] | Sequence[float], device: torch.device) -> torch.Tensor:
    """A tensor on `device`, of the values' own type. On a CPU it shares an array's memory.

    From pinned memory a GPU fetches it when its turn comes; PyTorch keeps the memory until then.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def copy_into(target: torch.Tensor, values: npt.NDArray[Any]) -> None:
    """Write an array over a tensor of its shape."""
    tensor = torch.from_numpy(values)
    target.copy_(tensor.pin_memory() if target.is_cuda else tensor, non_blocking=True)


def programs_of(device: torch.device) -> int:
    """How many programs of a kernel give each multiprocessor of the device one; 8 where an interpreter runs them."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8


def wait_for(device: torch.device) -> None:
    """Until the device has done all it was given. A CPU has."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was too little for it, the device's or the machine's: smaller work may still be done.

    Of what fails otherwise nothing is known, and after most errors of CUDA nothing else works in the process.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _OUT_OF_MEMORY)


class CopyToHost:
    """Tensors on their way to the CPU: the copy starts now, `wait` returns them when it is done."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        self._tensors = [self._start(t) for t in tensors]
        if any(t.is_cuda for t in tensors):
            self._done = torch.cuda.Event()
            self._done.record()

    @staticmethod
    def _start(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_cuda:
            return tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)

    def wait(self) -> list[torch.Tensor]:
        if self._done is not None:
            self._done.synchronize()
        return self._tensors
