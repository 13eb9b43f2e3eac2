"""How PyTorch is asked for symmetric memory: what its rendezvous gives on GPUs stands in its place."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed._symmetric_memory as of_pytorch
from torch._C import _distributed_c10d

from model.network import symmetric_memory
from model.network.symmetric_memory import CudaSymmetricMemory, allocate
from tests.support.ranks import LoneRank

VARIABLE = "TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What PyTorch was asked; its memory lies `offset` bytes behind where it says that a rank's begins."""
    said: dict[str, Any] = {"offset": 0}

    class OfPyTorch:
        @staticmethod
        def empty_strided_p2p(size: Any, stride: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
            said["allocated"] = size, stride, dtype, device
            return torch.empty(size, dtype=dtype)

    def rendezvous(tensor: torch.Tensor, group: object) -> SimpleNamespace:
        said["met"], said["allowed"] = group, os.environ.get(VARIABLE)
        if said.get("fails"):
            raise RuntimeError("no way to the other GPU")
        mine = tensor.data_ptr() - said["offset"]
        return SimpleNamespace(buffer_ptrs=[1 << 40, mine, 3 << 40])

    monkeypatch.setattr(_distributed_c10d, "_SymmetricMemory", OfPyTorch)
    monkeypatch.setattr(of_pytorch, "rendezvous", rendezvous)
    monkeypatch.setattr(symmetric_memory.dist, "group", SimpleNamespace(WORLD="everybody"))
    return said


@pytest.mark.parametrize("offset", [0, 512])
def test_each_rank_gets_addresses_of_all(asked: dict[str, Any], offset: int) -> None:
    """Where the memory itself begins, not what it was taken from."""
    asked["offset"] = offset
    memory = CudaSymmetricMemory(96, torch.device("cpu"))
    assert asked["allocated"] == ((96,), (1,), torch.uint8, torch.device("cpu"))
    memory.meet(LoneRank(1, 3))
    assert asked["met"] == "everybody"
    assert memory.addresses.dtype == torch.int64
    assert memory.addresses.tolist() == [(1 << 40) + offset, memory.own.data_ptr(), (3 << 40) + offset]


@pytest.mark.parametrize("before", [None, "0"])
@pytest.mark.parametrize("fails", [False, True])
def test_devices_that_have_one_number_are_not_taken_for_one(
    asked: dict[str, Any], before: str | None, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only while ranks meet: the environment is as it was behind it."""
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)
    if before is not None:
        monkeypatch.setenv(VARIABLE, before)
    asked["fails"] = fails
    memory = CudaSymmetricMemory(96, torch.device("cpu"))
    if fails:
        with pytest.raises(RuntimeError, match="no way"):
            memory.meet(LoneRank(1, 3))
    else:
        memory.meet(LoneRank(1, 3))
    assert asked["allowed"] == "1"
    assert os.environ.get(VARIABLE) == before


def test_cpus_have_none() -> None:
    with pytest.raises(RuntimeError, match="only GPUs"):
        allocate(96, torch.device("cpu"))
