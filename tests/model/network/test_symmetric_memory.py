"""How PyTorch is asked for symmetric memory: what its rendezvous gives on GPUs stands in its place."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as of_pytorch
from torch._C import _distributed_c10d

from model.network import symmetric_memory
from model.network.parallel import JOIN_TIMEOUT, TensorParallel
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
        said["met"], said["allowed"], said["directory"] = group, os.environ.get(VARIABLE), os.environ.get("TMPDIR")
        assert Path(said["directory"]).is_dir()
        if said.get("fails"):
            raise RuntimeError("no way to the other GPU")
        mine = tensor.data_ptr() - said["offset"]
        return SimpleNamespace(buffer_ptrs=[1 << 40, mine, 3 << 40])

    monkeypatch.setattr(_distributed_c10d, "_SymmetricMemory", OfPyTorch)
    monkeypatch.setattr(of_pytorch, "rendezvous", rendezvous)
    monkeypatch.setattr(symmetric_memory.dist, "group", SimpleNamespace(WORLD="everybody"))
    return said


class Joined(LoneRank):
    """Of three ranks the second, or the first, which has told the others by a store where they meet."""

    def __init__(self, rank: int = 1, directory: str = "/tmp") -> None:
        super().__init__(rank, 3)
        self._store = dist.HashStore()
        if rank:
            self._store.set(symmetric_memory._DIRECTORY, directory)


@pytest.mark.parametrize("offset", [0, 512])
def test_each_rank_gets_addresses_of_all(asked: dict[str, Any], offset: int) -> None:
    """Where the memory itself begins, not what it was taken from."""
    asked["offset"] = offset
    memory = CudaSymmetricMemory(96, torch.device("cpu"))
    assert asked["allocated"] == ((96,), (1,), torch.uint8, torch.device("cpu"))
    memory.meet(Joined())
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
            memory.meet(Joined())
    else:
        memory.meet(Joined())
    assert asked["allowed"] == "1"
    assert os.environ.get(VARIABLE) == before


def test_cpus_have_none() -> None:
    with pytest.raises(RuntimeError, match="only GPUs"):
        allocate(96, torch.device("cpu"))


def test_ranks_meet_in_a_directory_of_the_first_one(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose path is short, and in which nobody else has left anything; it is gone when they have met."""
    monkeypatch.setenv("TMPDIR", "/tmp/" + "long" * 40)
    first = Joined(0)
    memory = CudaSymmetricMemory(96, torch.device("cpu"))
    memory.meet(first)
    assert len(asked["directory"]) < 90
    assert first._store.get(symmetric_memory._DIRECTORY).decode() == asked["directory"]
    assert not Path(asked["directory"]).exists()
    assert os.environ["TMPDIR"] == "/tmp/" + "long" * 40


def test_who_waits_for_a_rank_that_has_failed_gives_up(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before NCCL, which meanwhile waits for whoever waits. Behind it the store is as patient as before."""
    monkeypatch.setattr(symmetric_memory, "MEETING_TIMEOUT", timedelta(seconds=0.05))
    group = TensorParallel(1, 2)
    first = TensorParallel(0, 2)
    host, port = first.listen().rsplit(":", 1)
    group._store = dist.TCPStore(host, int(port), is_master=False)
    with pytest.raises(dist.DistStoreError):
        CudaSymmetricMemory(96, torch.device("cpu")).meet(group)
    assert group._store.timeout == JOIN_TIMEOUT > symmetric_memory.MEETING_TIMEOUT
    for rank in (group, first):
        rank.close()
