"""What a rank is told that it could not find out alike on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deployments.replica import replica
from deployments.replica.replica import engine_config
from deployments.settings import Settings
from model.checkpoint.draft import Draft
from model.config import ModelConfig

SMALL = ModelConfig(vocab_size=4096, n_positions=2048, n_embd=256, n_layer=5, n_head=8, n_inner=1024)
LARGE = ModelConfig(vocab_size=49152, n_positions=8192, n_embd=2048, n_layer=24, n_head=16, n_inner=8192)
CPU = {"CPU": 1.0}
GPU = {"CPU": 1.0, "GPU": 1.0}


@pytest.mark.parametrize(("bundle", "device"), [(CPU, "cpu"), (GPU, "cuda")])
def test_its_device_and_what_it_was_set_to(bundle: dict[str, float], device: str) -> None:
    settings = Settings(tensor_parallel_size=2, num_threads=3, max_num_seqs=7)
    config = engine_config(settings, LARGE, Path("/checkpoint"), bundle)
    assert (config.model, config.device, config.num_threads) == ("/checkpoint", device, 3)
    assert (config.tensor_parallel_size, config.max_num_seqs) == (2, 7)


def test_where_the_draft_model_is() -> None:
    settings = Settings(draft_model="small/one", draft_revision="main")
    draft = Draft(settings.engine_config(), SMALL, Path("/draft"))
    config = engine_config(settings, LARGE, Path("/checkpoint"), CPU, draft)
    assert (config.model, config.draft_model) == ("/checkpoint", "/draft")
    assert engine_config(settings, LARGE, Path("/checkpoint"), CPU).draft_model is None


@pytest.mark.parametrize(
    ("model", "bundle", "cores", "ranks", "replicas", "threads"),
    [
        (LARGE, CPU, 8, 2, 2, 2),
        (LARGE, CPU, 8, 1, 1, 8),
        (LARGE, CPU, 8, 1, 3, 2),  # whole ones
        (LARGE, CPU, 2, 4, 1, 1),  # at least one
        (SMALL, CPU, 8, 2, 2, 1),
        (LARGE, GPU, 8, 2, 2, None),
        (SMALL, GPU, 8, 2, 2, None),
    ],
)
def test_large_models_share_the_cores_small_ones_take_one_and_a_gpu_needs_none(
    model: ModelConfig,
    bundle: dict[str, float],
    cores: int,
    ranks: int,
    replicas: int,
    threads: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica, "available_cores", lambda: cores)
    sizes: dict[str, Any] = {"tensor_parallel_size": ranks, "min_replicas": replicas, "max_replicas": replicas}
    assert engine_config(Settings(**sizes), model, Path("/c"), bundle).num_threads == threads
