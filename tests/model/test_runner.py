"""What a rank tells of its GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import torch

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
