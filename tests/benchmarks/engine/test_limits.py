"""The formulas, against counts by other means."""

from __future__ import annotations

import pytest
import torch

from benchmarks.engine.limits import measure_limits
from benchmarks.shapes import SHAPES, shape_config
from model.config import ModelConfig
from model.network.gpt_bigcode import GPTBigCode
from model.network.parallel import TensorParallel
from model.scheduling.costs import cache_read, head_flops, matrix_parameters, prefill_flops, token_flops, weights_read


def model_of(shape: str) -> ModelConfig:
    return ModelConfig.model_validate(shape_config(shape))


@pytest.mark.parametrize(("shape", "billions"), [("164m", 0.164), ("1b", 1.137), ("15b", 15.52)])
def test_shapes_have_the_sizes_they_are_called_by(shape: str, billions: float) -> None:
    model = model_of(shape)
    with torch.device("meta"):
        network = GPTBigCode(model, TensorParallel(0, 1))
    parameters = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("lm_head"))
    assert parameters == pytest.approx(billions * 1e9, rel=0.01)
    linear = sum(p.numel() for name, p in network.named_parameters() if name.startswith("h.") and p.ndim == 2)
    assert matrix_parameters(model) == linear
    assert weights_read(model, 2 * parameters, 2) == 2 * (parameters - model.n_positions * model.n_embd)


def test_bytes_of_the_largest_model() -> None:
    model = model_of("15b")
    assert cache_read(model, [1], 2) == 20_480
    assert cache_read(model, [100, 28], 2) == 128 * 20_480
    with torch.device("meta"):
        network = GPTBigCode(model, TensorParallel(0, 1))
    held = 2 * sum(p.numel() for name, p in network.named_parameters() if not name.startswith("lm_head"))
    assert weights_read(model, held, 2) == pytest.approx(30.9e9, rel=0.01)


def test_a_prompt_is_the_sum_of_its_tokens() -> None:
    model = model_of("164m")
    assert prefill_flops(model, 7) == sum(token_flops(model, n) for n in range(1, 8)) + head_flops(model)
    assert prefill_flops(model, 7, cached=4) == sum(token_flops(model, n) for n in (5, 6, 7)) + head_flops(model)


def test_limits_are_measured() -> None:
    limits = measure_limits(torch.device("cpu"), torch.float32, copy_bytes=1 << 20, matmul_size=64)
    assert limits.copy_bytes_per_s > 1e6
    assert limits.matmul_flops_per_s > 1e6
    assert set(limits.to_json()) == {"copy_bytes_per_s", "matmul_flops_per_s"}


def test_every_shape_is_a_multiple_of_its_heads() -> None:
    assert all(model_of(shape).head_dim in (64, 128) for shape in SHAPES)
