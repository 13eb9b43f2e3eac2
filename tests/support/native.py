"""Where the forward pass in C can run, and runners with it or without."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

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


def variants() -> tuple[native.Variant, ...]:
    """Those that this CPU runs: the one for it, and those that do with less."""
    if can_run() is not None:
        return ()
    has_bf16 = torch.cpu._is_avx512_bf16_supported()  # Intel's too, though it is not the fastest there
    return tuple(v for v in native.VARIANTS if v in native.variants() or (v == "bf16" and has_bf16))


@contextlib.contextmanager
def only(monkeypatch: pytest.MonkeyPatch, variant: native.Variant) -> Iterator[None]:
    """As on a CPU that runs this variant alone."""
    monkeypatch.setattr(native, "variants", lambda: (variant,))
    native.kernel.cache_clear()
    yield
    native.kernel.cache_clear()


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
