"""`python -m model.kernels.ahead_of_time 8.0 9.0`: the Triton kernels compiled for GPUs that are not there.

Their binaries go to Triton's cache (TRITON_CACHE_DIR), where a process that has such a GPU finds them: the product's
own code launches each kernel, and a driver that only pretends to be a GPU's lets it be compiled and runs nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
from torch import nn
from triton.backends.compiler import GPUTarget

from model.batch import Batch
from model.device import programs_of
from model.drawing import row_of
from model.kernels import (
    attention_kernels,
    triton_all_reduce,
    triton_draw,
    triton_gemv,
    triton_linear,
    triton_operations,
)
from model.kernels.linear_tiles import tiles
from model.kernels.triton_all_reduce import FusedAllReduce
from model.kernels.triton_attention import TILES, TritonPlan
from model.kernels.triton_draw import TritonDraw
from model.kernels.triton_operations import TritonOperations
from model.network.parallel import TensorParallel

CAPABILITIES = (80, 86, 89, 90)
"""Of the GPUs that StarCoder is served on: A100; A10 and RTX 30; L4, L40 and RTX 40; H100 and H200."""
WIDTHS = (128,)
"""Of the heads of StarCoder, StarCoderBase (1B to 15.5B) and SantaCoder."""
EMBEDDINGS = (2048, 2816, 4096, 6144)
"""Of StarCoderBase 1B (SantaCoder too), 3B, 7B and 15.5B (StarCoder too)."""
RANKS = (2, 4, 8)
"""That share a model, for whom the fused all-reduce is compiled."""
BLOCK_SIZES = (16,)
VOCABULARIES = (49152, 49280)
"""Of StarCoder and StarCoderBase, and of SantaCoder."""
_HOST = torch.device("cpu")


class _AbsentGpu:
    """Triton's driver of a GPU of this compute capability, 90 for 9.0, that loads and launches nothing."""

    def __init__(self, capability: int) -> None:
        self._capability = capability
        self.utils = self

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return self._capability  # what is compiled is kept by device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 1 << 30}

    def load_binary(self, *binary: Any) -> tuple[None, int, int, int, int]:
        return None, 0, 0, 0, 1024

    def launcher_cls(self, *source: Any) -> Any:
        return lambda *arguments: None


@contextlib.contextmanager
def pretend(capability: int) -> Iterator[None]:
    """Within it, kernels that are launched on tensors of the CPU are compiled for this capability, and nothing runs."""
    driver = triton.runtime.driver
    before = driver._active
    driver.set_active(_AbsentGpu(capability))
    try:
        yield
    finally:
        driver._active = before


def compile_attention(width: int, block_size: int, dtype: torch.dtype) -> None:
    """Every variant that a model with heads of this width can need, however many heads a rank has. Use in `pretend`."""
    for tile, splits in itertools.product(TILES, (1, 2)):
        heads = tile.rows
        nothing = np.zeros(0, dtype=np.int64)
        one = np.ones(1, dtype=np.int64)
        batch = Batch(nothing, nothing, nothing, one, one, np.zeros((1, 1), dtype=np.int64), nothing, num_decodes=1)
        plan = TritonPlan.of(batch, heads, _HOST, programs=1, splits=splits)
        cache = torch.zeros(2, 1, block_size, 1, width, dtype=dtype)
        assert plan.tile == tile
        plan.attend(torch.zeros(1, heads, width, dtype=dtype), cache, 1.0)


def compile_operations(n_embd: int, width: int, dtype: torch.dtype) -> None:
    """What stands between the products of a model of this width, with heads of this width. Use in `pretend`."""
    operations = TritonOperations()
    x = torch.zeros(1, n_embd, dtype=dtype)
    operations.add_norm(x, x, nn.LayerNorm(n_embd, dtype=dtype))
    cache, slots = torch.zeros(2, 1, 16, 1, width, dtype=dtype), torch.zeros(1, dtype=torch.int64)
    operations.write(cache, torch.zeros(1, 3, width, dtype=dtype), slots)
    for rows in (1, triton_gemv.MOST_ROWS):
        x, weight, bias = (torch.zeros(shape, dtype=dtype) for shape in ((rows, n_embd), (width, n_embd), (width,)))
        triton_gemv.multiply(x, weight, None)
        triton_gemv.multiply(x, weight, bias)
        triton_gemv.multiply(x, weight, bias, gelu_tanh=True)


@dataclass
class _NoMemory:
    """Symmetric memory of so many ranks, in name."""

    addresses: torch.Tensor
    own: torch.Tensor

    def meet(self, group: TensorParallel) -> None: ...


def compile_all_reduce(n_embd: int, ranks: int, dtype: torch.dtype) -> None:
    """The fused all-reduce of a model of this width, whichever of the ranks runs it. Use in `pretend`."""
    memory = _NoMemory(torch.zeros(ranks, dtype=torch.int64), torch.zeros(0))
    x = torch.zeros(1, n_embd, dtype=dtype)
    FusedAllReduce(memory, 0, n_embd, dtype).add_norm(x, x, nn.LayerNorm(n_embd, dtype=dtype))


def compile_linear(kind: torch.dtype, dtype: torch.dtype) -> None:
    """Every variant for weights whose sizes are multiples of 16, as all of StarCoder's are. Use in `pretend`."""
    outputs, inputs = 16, 512
    weight, scale = torch.zeros(outputs, inputs, dtype=kind), torch.zeros(outputs)
    x = torch.zeros(1, inputs, dtype=dtype)
    for splits, tile in itertools.product((1, 2), tiles(dtype, kind)):
        triton_linear.multiply(x, weight, scale, None, programs_of(_HOST), splits, tile=tile)
    triton_linear.widen(weight, scale, torch.zeros(outputs, inputs, dtype=dtype))
    if kind is torch.float8_e4m3fn:
        triton_linear.round_to_fp8(x)


def compile_draws(vocabulary: int) -> None:
    """For rows that begin where 16 bytes can be read at once. Use in `pretend`."""
    TritonDraw()(torch.zeros(1, vocabulary), np.array([row_of(1.0, 0, 1.0, 0.0, 0.0)]))


def compile_all(capability: int) -> None:
    """What StarCoder's models need on GPUs of this capability, in bfloat16."""
    with pretend(capability):
        for width, block_size in itertools.product(WIDTHS, BLOCK_SIZES):
            compile_attention(width, block_size, torch.bfloat16)
        for n_embd, width in itertools.product(EMBEDDINGS, WIDTHS):
            compile_operations(n_embd, width, torch.bfloat16)
        for n_embd, ranks in itertools.product(EMBEDDINGS, RANKS):
            compile_all_reduce(n_embd, ranks, torch.bfloat16)
        for vocabulary in VOCABULARIES:
            compile_draws(vocabulary)
        compile_linear(torch.int8, torch.bfloat16)
        if capability >= 89:
            compile_linear(torch.float8_e4m3fn, torch.bfloat16)


def binaries(capability: int) -> list[Any]:
    """What this process has compiled for this capability, or found compiled: Triton's `CompiledKernel`s."""
    modules = (
        attention_kernels,
        triton_all_reduce,
        triton_draw,
        triton_gemv,
        triton_linear,
        triton_operations,
    )
    defined = [value for module in modules for value in vars(module).values()]
    caches = [k.device_caches for k in defined if isinstance(k, triton.JITFunction)]
    return [compiled for cache in caches if capability in cache for compiled in cache[capability][0].values()]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile the Triton kernels into Triton's cache; no GPU is needed.")
    default = [f"{c / 10:.1f}" for c in CAPABILITIES]
    parser.add_argument("capability", nargs="*", default=default, help="as 9.0; by default %(default)s")
    for capability in parser.parse_args().capability:
        number = round(float(capability) * 10)
        compile_all(number)
        print(f"compute capability {capability}: {len(binaries(number))} kernels")


if __name__ == "__main__":
    main()
