"""Over which backend ranks talk, and what comes of it where two of them share a GPU."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from model.backends import cuda
from model.checkpoint.weights import Share
from model.config import EngineConfig, ModelConfig
from model.network import meeting, parallel
from model.network.operations import TorchOperations
from model.network.parallel import TensorParallel
from tests.support.environment import with_project

GPU = torch.device("cuda", 0)
SHAPE = {"vocab_size": 64, "n_positions": 64, "n_embd": 64, "n_head": 4, "n_layer": 1, "n_inner": 64}


@pytest.mark.parametrize(
    ("gpus", "backend", "device_id"),
    [(["a", "b", "c"], "nccl", GPU), (["a", "a", "a"], "gloo", None), (["a", "b", "a"], "gloo", None)],
)
def test_ranks_that_share_a_gpu_talk_through_gloo(
    gpus: list[str],
    backend: str,
    device_id: torch.device | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    opened: list[tuple[str, Any]] = []
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setattr(parallel, "gpu_uuid", lambda device: gpus[device.index])
    monkeypatch.setattr(
        "torch.distributed.init_process_group", lambda name, **options: opened.append((name, options["device_id"]))
    )
    groups = [TensorParallel(rank, len(gpus)) for rank in range(len(gpus))]
    address = groups[0].listen()

    def join(group: TensorParallel) -> None:
        group.join(address, torch.device("cuda", group.rank))

    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(len(groups)) as threads:
        list(threads.map(join, groups))
    for group in reversed(groups):
        group.close()
    assert [name for name, _ in opened] == [backend] * 3
    assert {device is not None for _, device in opened} == {device_id is not None}
    assert [group.shares_gpu for group in groups] == [backend == "gloo"] * 3
    assert caplog.text.count("share") == int(backend == "gloo")


def test_a_long_temporary_directory_keeps_no_rank_from_its_wire(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The path of a Unix socket ends at 108 bytes. Nothing is left in either place."""
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *_, **__: None)
    long = tmp_path / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    made: list[str] = []
    mkdtemp = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", lambda *a, **k: made.append(mkdtemp(*a, **k)) or made[-1])
    groups = [TensorParallel(rank, 2) for rank in range(2)]
    address = groups[0].listen()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda group: group.join(address, torch.device("cpu")), groups))
    groups[0].send(b"hello")
    assert groups[1].recv() == b"hello"
    for group in reversed(groups):
        group.close()
    assert len(made) == 2 * 2, "the wire's and the star's, each of which was too long at first"
    assert all(Path(directory).name.startswith("starcoder-") for directory in made), "whoever finds one knows whose"
    assert not any(Path(directory).exists() for directory in made)


@contextlib.contextmanager
def wired(monkeypatch: pytest.MonkeyPatch, order: list[int]) -> Iterator[list[TensorParallel]]:
    """Ranks without collectives, of which the others reach rank 0 in this order."""
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *_, **__: None)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: False)
    groups = [TensorParallel(rank, len(order) + 1) for rank in range(len(order) + 1)]
    address, connect = groups[0].listen(), meeting.Client
    connected = {rank: threading.Event() for rank in [0, *order]}
    connected[0].set()
    before = dict(zip(order, [0, *order], strict=False))
    rank_of: dict[int, int] = {}

    def in_turn(path: str, family: str) -> Any:
        rank = rank_of[threading.get_ident()]
        assert connected[before[rank]].wait(60)
        wire = connect(path, family=family)
        connected[rank].set()
        return wire

    monkeypatch.setattr(meeting, "Client", in_turn)

    def join(group: TensorParallel) -> None:
        rank_of[threading.get_ident()] = group.rank
        group.join(address, torch.device("cpu"))

    with ThreadPoolExecutor(len(groups)) as threads:
        list(threads.map(join, groups))
    try:
        yield groups
    finally:
        for group in groups:
            group.close()
            group.close()  # does no harm


@pytest.mark.parametrize("order", [[1, 2, 3], [3, 2, 1], [2, 3, 1]])
def test_a_wire_is_that_of_its_rank_whoever_came_first(order: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    with wired(monkeypatch, order) as (first, *others):
        first.send(b"what are you?")
        assert [other.recv() for other in others] == [b"what are you?"] * 3
        for other in others:
            other.reply(f"rank {other.rank}".encode())
        assert first.replies(60) == [b"rank 1", b"rank 2", b"rank 3"]
        for other in (others[0], others[2]):
            other.reply(b"here")
        with pytest.raises(TimeoutError, match=r"^rank 2 did not answer within 0\.05 s$"):
            first.replies(0.05)


def test_who_is_gone_is_told_from_who_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    with wired(monkeypatch, [1, 2]) as (first, second, third):
        second.close()
        with pytest.raises(EOFError):
            first.replies(60)
        first._wires[0].close()
        first._wires = first._wires[1:]
        first.send(b"to who is left")
        assert third.recv() == b"to who is left"
        first.close()
        assert third.recv() is None


def test_one_rank_alone_opens_nothing_and_keeps_what_it_has() -> None:
    group = TensorParallel()
    group.join("nowhere", torch.device("cpu"))
    tensor = torch.arange(6.0).view(2, 3).t()
    assert group.is_first
    assert group.all_reduce(tensor) is tensor
    assert group.broadcast(tensor) is tensor
    assert group.gather_last_dim(tensor) is tensor
    assert group.exchange(tensor) is tensor
    assert group.all_gather(tensor).is_contiguous()
    assert torch.equal(group.all_gather(tensor), tensor[None])
    group.send(b"nobody hears it")
    assert group.replies(0) == []
    group.close()


@pytest.mark.parametrize(("size", "stripes"), [(4, 1), (4, 2), (4, 4), (1, 1)])
def test_neighbours_keep_what_follows_one_another(size: int, stripes: int) -> None:
    found = [TensorParallel(rank, size, stripes).stripe for rank in range(size)]
    assert [(one.count, one.own) for one in found] == [(stripes, rank % stripes) for rank in range(size)]


TALK = """
import json, sys, torch
from model.network import parallel, star

star.MOST_BYTES = int(sys.argv[2])
parallel.gpu_uuid = lambda device: "the only one"
torch.Tensor.cpu = torch.Tensor.clone  # what a copy to main memory is for a tensor that lies elsewhere
rank = int(sys.argv[1])
group = parallel.TensorParallel(rank, 2, stripes=2)
if rank == 0:
    print(group.listen(), flush=True)
group.join(sys.argv[3] if rank else "", torch.device("cuda", 0))
with torch.inference_mode():
    half, drawn = torch.full((2,), 1.5 + rank, dtype=torch.bfloat16), torch.tensor([7 + rank])
    assert group.all_reduce(half) is half and group.broadcast(drawn) is drawn
    gathered = group.gather_last_dim(torch.tensor([[rank, 1], [2, rank]]))
    everyones = group.all_gather(torch.tensor([[1.5 + rank], [2.5]], dtype=torch.bfloat16)[:, :1])
    received = group.exchange(torch.tensor([[10 * rank], [10 * rank + 1]]))
gathered = None if gathered is None else gathered.tolist()
print(json.dumps([half.tolist(), drawn.tolist(), gathered, everyones.tolist(), received.tolist()]))
group.close()
"""


@pytest.mark.parametrize("most_bytes", [0, 1 << 10], ids=["gloo", "star"])
def test_what_ranks_on_one_gpu_say_to_each_other(most_bytes: int) -> None:
    """All but the tensors is as on a GPU."""
    options: dict[str, Any] = {"env": with_project(), "stdout": subprocess.PIPE, "text": True}
    first = subprocess.Popen([sys.executable, "-c", TALK, "0", str(most_bytes)], **options)
    try:
        assert first.stdout is not None
        address = first.stdout.readline().strip()
        command = [sys.executable, "-c", TALK, "1", str(most_bytes), address]
        second = subprocess.run(command, timeout=120, check=True, **options)
        out, _ = first.communicate(timeout=120)
    finally:
        first.kill()
        first.wait()
    everyones = [[[1.5], [2.5]], [[2.5], [2.5]]]
    assert json.loads(out) == [[4.0, 4.0], [7], [[0, 1, 1, 1], [2, 0, 2, 1]], everyones, [[0], [10]]]
    assert json.loads(second.stdout) == [[4.0, 4.0], [7], None, everyones, [[1], [11]]]


@pytest.mark.parametrize("shared", [False, True])
def test_steps_whose_collectives_go_through_the_cpu_are_not_recorded(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "_triton_attention", lambda share: object())
    monkeypatch.setattr(cuda, "_operations", lambda share, config: TorchOperations())
    group = TensorParallel(0, 2)
    group.shares_gpu = shared
    share = Share(ModelConfig(**SHAPE), group, GPU, torch.bfloat16)
    backend = cuda.CudaBackend(share, EngineConfig(model="m"), "triton", lambda place: 0)
    assert backend.spare_blocks == (0 if shared else 1)
    recorded: list[object] = []
    monkeypatch.setattr(backend, "record_decodes", lambda *arguments: recorded.append(arguments))
    backend.warm_up(torch.empty(0), torch.empty(0), 64)
    assert bool(recorded) is not shared
