"""What ranks say to each other in collectives, with threads for ranks and tensors that go from one to another.

PyTorch's own have one group a process, and `test_parallel` and others ask them in processes.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import pytest
import torch
import torch.distributed as dist

from model.network import parallel, star
from model.network.parallel import JOIN_TIMEOUT, TensorParallel

T = TypeVar("T")
CPU = torch.device("cpu")


class Threads:
    """`torch.distributed` for ranks that are threads. opened: with what each joined; groups: what it formed then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
        self.opened: dict[int, tuple[str, dict[str, Any]]] = {}
        self.groups: list[tuple[list[list[int]], timedelta]] = []
        self.closed: list[int] = []
        self.moved: list[torch.Tensor] = []
        self._size = size
        self._barrier = threading.Barrier(size, timeout=60)
        self._brought: dict[int, torch.Tensor] = {}
        self._own = threading.local()
        names = ("init_process_group", "new_subgroups_by_enumeration", "is_initialized", "destroy_process_group")
        collectives = ("all_reduce", "gather", "all_gather_single", "all_to_all_single", "broadcast")
        for name in (*names, *collectives):
            monkeypatch.setattr(dist, name, getattr(self, name))

    def each(self, work: Callable[[TensorParallel], T], stripes: int, device: torch.device) -> list[T]:
        """What every rank finds, once all have joined."""
        groups = [TensorParallel(rank, self._size, stripes) for rank in range(self._size)]
        address = groups[0].listen()

        found: queue.Queue[tuple[int, T | BaseException]] = queue.Queue()

        def one(group: TensorParallel) -> None:
            try:
                group.join("" if group.is_first else address, device)
                found.put((group.rank, work(group)))
            except BaseException as error:
                found.put((group.rank, error))
                self._barrier.abort()  # or the others would wait for it
            finally:
                group.close()
                group.close()

        threads = [threading.Thread(target=one, args=(group,), daemon=True) for group in groups]
        for thread in threads:
            thread.start()
        results: dict[int, T] = {}
        for _ in groups:  # who fails may leave others waiting for it: they are not waited for
            rank, result = found.get(timeout=60)
            if isinstance(result, BaseException):
                raise result
            results[rank] = result
        for thread in threads:
            thread.join(60)
        return [results[rank] for rank in range(self._size)]

    def init_process_group(self, backend: str, **options: Any) -> None:
        self._own.rank, self._own.open = options["rank"], True
        self.opened[options["rank"]] = backend, options

    def new_subgroups_by_enumeration(self, ranks: list[list[int]], timeout: timedelta) -> tuple[list[int], list[Any]]:
        if self._own.rank == 0:
            self.groups.append((ranks, timeout))
        (own,) = [group for group in ranks if self._own.rank in group]
        return own, ranks

    def is_initialized(self) -> bool:
        return bool(getattr(self._own, "open", False))

    def destroy_process_group(self) -> None:
        self._own.open = False
        self.closed.append(self._own.rank)

    def all_reduce(self, tensor: torch.Tensor) -> None:
        tensor.copy_(torch.stack(self._everyones(tensor)).sum(0))

    def gather(self, tensor: torch.Tensor, gather_list: list[torch.Tensor] | None = None, dst: int = 0) -> None:
        assert (gather_list is not None) == (self._own.rank == dst), "who gathers gives room, and nobody else"
        everyones = self._everyones(tensor)
        for room, part in zip(gather_list or (), everyones if gather_list else (), strict=True):
            room.copy_(part)

    def all_gather_single(self, output: torch.Tensor, tensor: torch.Tensor, group: list[int] | None = None) -> None:
        output.copy_(torch.cat(self._everyones(tensor, group)))

    def all_to_all_single(self, output: torch.Tensor, tensor: torch.Tensor, group: list[int] | None = None) -> None:
        members = group or list(range(self._size))
        own = members.index(self._own.rank)
        output.copy_(torch.cat([part.chunk(len(members))[own] for part in self._everyones(tensor, group)]))

    def broadcast(self, tensor: torch.Tensor, src: int) -> None:
        tensor.copy_(self._everyones(tensor)[src])

    def _everyones(self, tensor: torch.Tensor, group: list[int] | None = None) -> list[torch.Tensor]:
        assert tensor.is_contiguous(), "as PyTorch wants them"
        self.moved.append(tensor)
        self._brought[self._own.rank] = tensor.clone()
        self._barrier.wait()
        brought = [self._brought[rank] for rank in group or range(self._size)]
        self._barrier.wait()
        return brought


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """That all ranks have: tensors are where they would be without it, and are copied where they would leave it."""
    monkeypatch.setattr(parallel, "gpu_uuid", lambda device: "the only one")
    monkeypatch.setattr(torch.Tensor, "cpu", torch.Tensor.clone)
    return torch.device("cuda", 0)


def talk(group: TensorParallel) -> tuple[list[torch.Tensor], list[Any]]:
    """Tensors that each rank gave, and what came of them."""
    rank = group.rank
    given = [
        torch.tensor([1.0, 2.0]) * 10**rank,
        torch.tensor([7 + rank, rank]),
        torch.tensor([[rank, 20], [30, rank]]).t(),  # not contiguous
        torch.tensor([[float(rank), 20.0], [30.0, rank]]).t(),
        torch.tensor([[100 * rank + one, one] for one in range(2 * group.stripe.count)]).view(2, -1).t(),
    ]
    given[4] = given[4].reshape(group.stripe.count, -1)
    calls = (group.all_reduce, group.broadcast, group.gather_last_dim, group.all_gather, group.exchange)
    found = [call(tensor) for call, tensor in zip(calls, given, strict=True)]
    assert found[0] is given[0], "in place"
    assert found[1] is given[1], "in place"
    return given, found


@pytest.mark.parametrize("stripes", [1, 2, 4])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("small", [False, True])
def test_what_every_rank_hears(
    stripes: int, shared: bool, small: bool, monkeypatch: pytest.MonkeyPatch, one_gpu: Any
) -> None:
    monkeypatch.setattr(star, "MOST_BYTES", 1 << 10 if small else 0)
    threads = Threads(monkeypatch, 4)
    spoken = threads.each(talk, stripes, one_gpu if shared else CPU)
    for rank, (given, (summed, first, gathered, neighbours, exchanged)) in enumerate(spoken):
        assert summed.tolist() == [1111.0, 2222.0]
        assert first.tolist() == [7, 0]
        if rank == 0:
            assert gathered.tolist() == [[0, 30, 1, 30, 2, 30, 3, 30], [20, 0, 20, 1, 20, 2, 20, 3]]
        else:
            assert gathered is None
        start = rank - rank % stripes
        near = [spoken[other][0] for other in range(start, start + stripes)]
        assert neighbours.is_contiguous()
        assert torch.equal(neighbours, torch.stack([theirs[3] for theirs in near]))
        assert torch.equal(exchanged, torch.stack([theirs[4][rank - start] for theirs in near]))
        moved = any(tensor is one for tensor in threads.moved for one in given)
        assert moved is not (shared or small), "what lies on a GPU that is shared goes through main memory"
    assert small is not bool(threads.moved), "what is small goes through the star"
    striped = [[0, 1], [2, 3]], JOIN_TIMEOUT
    assert threads.groups == ([striped] if stripes == 2 else []), "where all are neighbours, they are the group"
    assert sorted(threads.closed) == [0, 1, 2, 3], "once each"


@pytest.mark.parametrize("own", [None, "eth7"])
@pytest.mark.parametrize(("platform", "loopback"), [("linux", "lo"), ("darwin", "lo0")])
def test_ranks_meet_on_the_loopback_unless_somebody_says_otherwise(
    own: str | None, platform: str, loopback: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # what is set below is forgotten afterwards
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    if own is not None:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", own)
    monkeypatch.setattr(sys, "platform", platform)
    threads = Threads(monkeypatch, 2)
    assert threads.each(lambda group: os.environ["GLOO_SOCKET_IFNAME"], 1, CPU) == [own or loopback] * 2
    for rank, (backend, options) in threads.opened.items():
        assert backend == "gloo"
        assert (options["rank"], options["world_size"], options["device_id"]) == (rank, 2, None)
        assert options["timeout"] == JOIN_TIMEOUT
        assert isinstance(options["store"], dist.PrefixStore), "rendezvous has keys of its own"


def test_ranks_with_a_gpu_each_talk_through_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    numbers = iter("ab")
    monkeypatch.setattr(parallel, "gpu_uuid", lambda device: next(numbers))
    threads, gpu = Threads(monkeypatch, 2), torch.device("cuda", 1)
    assert threads.each(lambda group: group.shares_gpu, 1, gpu) == [False] * 2
    assert [(backend, options["device_id"]) for backend, options in threads.opened.values()] == [("nccl", gpu)] * 2
    assert "GLOO_SOCKET_IFNAME" not in os.environ
