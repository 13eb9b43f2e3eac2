"""Where the forward pass in C can run, and runners with it or without."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.config import EngineConfig
from model.kernels.native import library as native
from model.process.rank import Rank
from model.runner import Runner


def can_run() -> str | None:
    try:
        native.library()
    except native.Unavailable as error:
        return str(error)
    return None


needs_kernel = pytest.mark.skipif(can_run() is not None, reason=f"the kernel cannot run here: {can_run()}")


def variants() -> list[native.Variant]:
    """Those that this CPU runs: the one for it, and the one that does with less."""
    if can_run() is not None:
        return []
    return ["int16"] if native.variant() == "int16" else ["bf16", "int16"]


def runner_of(
    checkpoint: Path, kernels: str, dtype: str = "bfloat16", threads: int = 2, quantization: str = "none"
) -> Runner:
    rank = Rank(
        EngineConfig(
            model=str(checkpoint),
            device="cpu",
            dtype=dtype,
            num_kv_blocks=200,
            num_threads=threads,
            cpu_kernels=kernels,
            quantization=quantization,
        )
    )
    rank.load()
    assert rank._runner is not None
    return rank._runner
