"""Ranks that could run different kernels: real processes, joined by gloo, one of which is hindered."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.config import ConfigError, EngineConfig
from model.request import Request, SamplingParams
from tests.support.checkpoints import random_model, write_checkpoint
from tests.support.prepared_ranks import REASON, hinder_bfloat16, hinder_native, hinder_triton
from tests.support.ranks import Prepare, RankGroup, collect


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("ranks") / "model", random_model())


def config_of(checkpoint: Path, **options: str) -> EngineConfig:
    return EngineConfig(
        model=str(checkpoint), device="cpu", tensor_parallel_size=2, num_threads=1, num_kv_blocks=40, **options
    )


@pytest.mark.parametrize(
    ("hinder", "options", "dtype"),
    [
        (hinder_native, {"dtype": "bfloat16"}, "bfloat16"),
        (hinder_bfloat16, {}, "float32"),
    ],
)
async def test_what_one_rank_cannot_run_both_do_without(
    checkpoint: Path, hinder: Prepare, options: dict[str, str], dtype: str
) -> None:
    with RankGroup(config_of(checkpoint, **options), hinder) as group:
        assert [(r["backend"], r["dtype"]) for r in group.reports] == [("PlainBackend", dtype)] * 2
        async with group.client() as client:
            params = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)
            outputs = await collect(client, Request("a", [1, 2, 3], params))
        assert sum(len(output.token_ids) for output in outputs) == 4


@pytest.mark.parametrize(
    ("hinder", "options", "what"),
    [
        (hinder_native, {"cpu_kernels": "native"}, "cpu_kernels=native"),
        (hinder_triton, {"attention": "triton"}, "attention=triton"),
    ],
)
def test_what_is_asked_for_by_name_is_refused_by_both(
    checkpoint: Path, hinder: Prepare, options: dict[str, str], what: str
) -> None:
    with pytest.raises(ExceptionGroup) as caught, RankGroup(config_of(checkpoint, **options), hinder):
        pass
    first, second = caught.value.exceptions
    assert isinstance(first, ConfigError)
    assert isinstance(second, ConfigError)
    assert what in str(first)
    assert "another rank" in str(first)
    assert what in str(second)
    assert REASON in str(second)
