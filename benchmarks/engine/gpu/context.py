"""What measurements share: the device and its limits, and one loaded model, over which engines are built anew."""

from __future__ import annotations

import contextlib
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine.gpu.session import Found
from benchmarks.engine.gpu.sizes import FULL, SMALL, Sizes
from benchmarks.engine.in_process import Accounts, Work, random_prompts, share
from benchmarks.engine.limits import Limits, measure_limits
from benchmarks.shapes import write_config
from model.backends.backend import Backend
from model.backends.cuda import CudaBackend
from model.config import EngineConfig, Quantization
from model.engine import Engine
from model.kernels import cuda_graphs
from model.process.rank import Rank


class Loaded:
    """Random weights of a shape on one rank. most: sequences at once, up to which decode steps are recorded."""

    def __init__(self, shape: str, device: torch.device, sizes: Sizes, quantization: Quantization, most: int) -> None:
        gpu, rounded = device.type == "cuda", quantization != "none"
        with tempfile.TemporaryDirectory(prefix="starcoder-bench-") as directory:
            self._config = EngineConfig(
                model=str(write_config(Path(directory), shape)),
                load_format="random",
                dtype="bfloat16" if gpu or rounded else "float32",
                device="cuda" if gpu else "cpu",
                cpu_kernels="native" if rounded else "torch",
                quantization=quantization,
                max_model_len=sizes.window,
                max_num_seqs=most,
                num_kv_blocks=sizes.blocks,  # not all that is free: other things are measured beside it
                speculative_tokens=0,  # noise repeats itself, and drafts of it are right far too often
                async_scheduling=True,
                enable_prefix_caching=False,
            )
            self._rank = Rank(self._config)
            self.report = self._rank.load()
        runner = self.engine().executor.runner
        self.backend: Backend = runner.backend
        self.accounts = Accounts(
            runner.model,
            self._rank.costs().weights_read,
            getattr(torch, str(self.report["dtype"])).itemsize,
        )

    def engine(self, **options: Any) -> Engine:
        """A new one over the loaded weights. options: of EngineConfig, those of scheduling."""
        self._rank.config = self._config.model_copy(update=options)
        return self._rank.engine()

    @contextlib.contextmanager
    def graphs(self, on: bool) -> Iterator[None]:
        """Whether recorded decode steps are replayed, where there are any."""
        backend = self.backend
        before = isinstance(backend, CudaBackend) and backend.replays
        if isinstance(backend, CudaBackend):
            backend.replays = before and on
        try:
            yield
        finally:
            if isinstance(backend, CudaBackend):
                backend.replays = before

    @property
    def config(self) -> EngineConfig:
        """Of the loaded weights."""
        return self._config

    def prompts(self, count: int, length: int, seed: int = 0) -> list[list[int]]:
        return random_prompts(self.accounts.model, [length] * count, (seed,))


class Context:
    """device: where everything runs. At most one model is kept, for whoever asks for it next."""

    def __init__(self, device: torch.device, shape: str) -> None:
        self.device, self.shape = device, shape
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.sizes = FULL if device.type == "cuda" else SMALL
        self._loaded: dict[Quantization, Loaded] = {}

    @cached_property
    def limits(self) -> Limits:
        """Of the device, measured when they are first asked for."""
        copy = self.sizes.copy_mib << 20
        return measure_limits(self.device, self.dtype, copy_bytes=copy, matmul_size=self.sizes.matmul)

    def model(self, quantization: Quantization = "none") -> Loaded:
        """The shape with these weights; another kind of weights is freed first."""
        if quantization not in self._loaded:
            self.release()
            most = max(self.sizes.batches)
            self._loaded[quantization] = Loaded(self.shape, self.device, self.sizes, quantization, most)
        return self._loaded[quantization]

    def release(self) -> None:
        """Free the model."""
        self._loaded.clear()
        self.clean()
        cuda_graphs.leave_pool()

    def clean(self) -> bool:
        """Free what a measurement has left behind. False where the GPU answers no more: an error there stays."""
        gc.collect()
        if self.device.type != "cuda":
            return True
        try:
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        except RuntimeError:
            return False
        return True

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def memory(self) -> dict[str, float]:
        """Gigabytes that PyTorch has held at most since the measurement began; nothing on a CPU."""
        if self.device.type != "cuda":
            return {}
        return {"peak_memory_gb": torch.cuda.max_memory_allocated(self.device) / 1e9}

    def shares(self, work: Work) -> dict[str, float]:
        """What a phase reached of the limits. roofline: of the time that it cannot be shorter than by both of them."""
        least = max(work.bytes_read / self.limits.copy_bytes_per_s, work.flops / self.limits.matmul_flops_per_s)
        return {
            "percent_of_copy": share(work.bytes_per_s, self.limits.copy_bytes_per_s),
            "percent_of_matmul": share(work.flops_per_s, self.limits.matmul_flops_per_s),
            "percent_of_roofline": share(least, work.seconds),
        }


def limits(context: Context) -> Found:
    """What the device can do: everything else is compared with it."""
    found = context.limits
    return Found(
        {
            "copy_gbytes_per_s": found.copy_bytes_per_s / 1e9,
            "matmul_tflops": found.matmul_flops_per_s / 1e12,
            "launch_us": 1e6 * _launch_seconds(context.device),
        }
    )


def _launch_seconds(device: torch.device) -> float:
    """Of the CPU's, for one small kernel by PyTorch."""
    x = torch.zeros(1, device=device)
    count = 2000

    def launches() -> None:
        for _ in range(count):
            x.add_(1)

    launches()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    launches()
    return (time.perf_counter() - started) / count


def load(context: Context, quantization: Quantization) -> Found:
    """Random weights, the cache, kernels compiled and decode steps recorded: until the first step could run."""
    loaded = context.model(quantization)
    report = loaded.report
    backend = loaded.backend
    return Found(
        {
            "load_seconds": report["load_seconds"],
            "parameter_gb": int(str(report["parameter_bytes"])) / 1e9,
            "cache_gb": int(str(report["kv_cache_bytes"])) / 1e9,
            **context.memory(),
            "backend": type(backend).__name__,
            **_ways(backend),
        }
    )


def _ways(backend: Backend) -> dict[str, Any]:
    if not isinstance(backend, CudaBackend):
        return {}
    # only steps of our own attention are recorded, and they need a block of their own
    return {"attention": "triton" if backend.spare_blocks else "torch", "replays_graphs": backend.replays}


def timed(context: Context, work: Callable[[], object]) -> float:
    """Seconds of one run, the device's work included."""
    context.synchronize()
    started = time.perf_counter()
    work()
    context.synchronize()
    return time.perf_counter() - started
