"""What the hardware could do. `model.scheduling.costs` says how much of it a run used.

Decode is bound by memory and compared with a measured copy; prefill is bound by arithmetic and compared with a measured
matrix product.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True)
class Limits:
    """copy_bytes_per_s: bytes read plus bytes written by a copy; matmul_flops_per_s: of a square product."""

    copy_bytes_per_s: float
    matmul_flops_per_s: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def measure_limits(device: torch.device, dtype: torch.dtype, *, copy_bytes: int = 0, matmul_size: int = 0) -> Limits:
    """Measure both on this device with the threads PyTorch has now, the best of several tries.

    copy_bytes: size of the buffer, far beyond the caches; 0: 1 GiB on a GPU, 256 MiB on CPU.
    matmul_size: rows of the square factors; 0: 8192 on a GPU, 2048 on CPU.
    """
    gpu = device.type == "cuda"
    return Limits(
        copy_bytes_per_s=copy_bandwidth(device, copy_bytes or (1 << 30 if gpu else 1 << 28)),
        matmul_flops_per_s=matmul_rate(device, dtype, matmul_size or (8192 if gpu else 2048)),
    )


def copy_bandwidth(device: torch.device, size: int) -> float:
    """Bytes moved a second by copying `size` bytes, 2 * size / time: each byte is read once and written once."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / best_seconds(lambda: target.copy_(source), device)


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOP a second of a [size, size] product in `dtype`, 2 * size^3 / time."""
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    out = torch.empty(size, size, dtype=dtype, device=device)
    return 2 * size**3 / best_seconds(lambda: torch.mm(left, right, out=out), device)


def best_seconds(work: Callable[[], object], device: torch.device, tries: int = 7) -> float:
    """The shortest time of `work`, after one run that does not count."""

    def once() -> float:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    once()
    return min(once() for _ in range(tries))


def launch_seconds(works: Sequence[Callable[[], object]], device: torch.device, tries: int = 7) -> float:
    """Of one of them, which run one after another; a GPU's from a CUDA graph, so that Python's time is left out."""

    def all_of_them() -> None:
        for work in works:
            work()

    run = all_of_them
    if device.type == "cuda":
        all_of_them()  # compiles, before anything is recorded
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            all_of_them()
        run = graph.replay
    return best_seconds(run, device, tries) / len(works)
