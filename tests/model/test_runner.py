"""How large a rank makes its cache, and what it tells of its GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import torch

from model import runner as runner_module
from model.config import ConfigError, EngineConfig
from model.runner import Runner
from model.statistics import GpuMemory


def runner_on(device: str) -> Runner:
    runner = object.__new__(Runner)
    runner.device = torch.device(device)
    return runner


def test_a_rank_tells_the_memory_of_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several in the machine, of which another may be the process's current one."""
    uuids = {torch.device("cuda", at): UUID(int=at) for at in range(3)}
    free: dict[Any, tuple[int, int]] = {torch.device("cuda", at): (70 - 10 * at, 80 + at) for at in range(3)}
    monkeypatch.setattr(torch.cuda, "mem_get_info", free.__getitem__)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuids[device]))
    assert runner_on("cuda:1").gpu_memory() == GpuMemory(str(UUID(int=1)), used=21, total=81)
    assert runner_on("cuda:2").gpu_memory() == GpuMemory(str(UUID(int=2)), used=32, total=82)


def test_a_rank_on_a_cpu_has_no_gpu_to_tell_of() -> None:
    assert runner_on("cpu").gpu_memory() is None


def blocks(device: str = "cpu", draft: bool = False, **options: Any) -> int:
    """Of a rank whose blocks have 16 tokens and 100 bytes, with 20 more of a draft model, for sequences of 33."""
    runner = runner_on(device)
    runner.block_size, runner.max_model_len = 16, 33
    runner._shard = SimpleNamespace(block_bytes=100, activation_bytes=300)  # type: ignore[assignment]
    small = SimpleNamespace(block_bytes=20, activation_bytes=60)
    runner.draft = small if draft else None  # type: ignore[assignment]
    return runner._num_kv_blocks(EngineConfig(model="x", **options))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2,000 bytes, with GPUs of which the second has most."""
    monkeypatch.setattr(runner_module.os, "sysconf", {"SC_PHYS_PAGES": 20, "SC_PAGE_SIZE": 100}.__getitem__)
    memory = {torch.device("cuda", 0): (1000, 10_000), torch.device("cuda", 1): (9000, 10_000)}
    monkeypatch.setattr(torch.cuda, "mem_get_info", memory.__getitem__)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"num_kv_blocks": 20}, 20),  # all that the machine has
        ({"num_kv_blocks": 3}, 3),  # one sequence
        ({"kv_cache_memory": 1299}, 12),
        ({"kv_cache_memory": 1299, "draft": True}, 10),  # of both models
        # what is free, without a tenth of all and the activations
        ({"device": "cuda:1"}, (9000 - 1000 - 300) // 100),
        ({"device": "cuda:1", "draft": True}, (9000 - 1000 - 360) // 120),
        ({"device": "cuda:1", "gpu_memory_utilization": 0.5}, (9000 - 5000 - 300) // 100),
        ({"device": "cuda:1", "num_kv_blocks": 70}, 70),  # the machine's memory has nothing to do with it
    ],
)
def test_a_cache_has_what_was_asked_for_or_what_there_is_room_for(options: dict[str, Any], found: int) -> None:
    assert blocks(**options) == found


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"num_kv_blocks": 21}, "a cache of 2,100 bytes is more than this machine's memory of 2,000"),
        ({"num_kv_blocks": 17, "draft": True}, "a cache of 2,040 bytes is more than"),
        ({"num_kv_blocks": 2}, "holds 2 blocks of 16 tokens, but one sequence of max_model_len=33 needs 3"),
        ({"num_kv_blocks": 2, "draft": True}, "360 bytes at least"),
        ({"device": "cuda:0"}, "holds 0 blocks of 16 tokens.*[(]300 bytes at least"),  # less than nothing is free
    ],
)
def test_a_cache_that_cannot_be_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        blocks(**options)
