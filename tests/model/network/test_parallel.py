"""Over which backend ranks talk, and what comes of it where two of them share a GPU."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from model.backends import cuda
from model.checkpoint.weights import Share
from model.config import EngineConfig, ModelConfig
from model.network import parallel
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
    assert made
    assert not any(Path(directory).exists() for directory in made)


TALK = """
import json, sys, torch
from model.network import parallel

parallel.gpu_uuid = lambda device: "the only one"
torch.Tensor.cpu = torch.Tensor.clone  # what a copy to main memory is for a tensor that lies elsewhere
rank = int(sys.argv[1])
group = parallel.TensorParallel(rank, 2, stripes=2)
if rank == 0:
    print(group.listen(), flush=True)
group.join(sys.argv[2] if rank else "", torch.device("cuda", 0))
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


def test_what_ranks_on_one_gpu_say_to_each_other() -> None:
    """All but the tensors is as on a GPU."""
    options: dict[str, Any] = {"env": with_project(), "stdout": subprocess.PIPE, "text": True}
    first = subprocess.Popen([sys.executable, "-c", TALK, "0"], **options)
    try:
        assert first.stdout is not None
        address = first.stdout.readline().strip()
        second = subprocess.run([sys.executable, "-c", TALK, "1", address], timeout=120, check=True, **options)
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
    monkeypatch.setattr(cuda, "_operations", lambda share: TorchOperations())
    group = TensorParallel(0, 2)
    group.shares_gpu = shared
    share = Share(ModelConfig(**SHAPE), group, GPU, torch.bfloat16)
    backend = cuda.CudaBackend(share, EngineConfig(model="m"), "triton", lambda place: 0)
    assert backend.spare_blocks == (0 if shared else 1)
    recorded: list[object] = []
    monkeypatch.setattr(backend, "record_decodes", lambda *arguments: recorded.append(arguments))
    backend.warm_up(torch.empty(0), torch.empty(0), 64)
    assert bool(recorded) is not shared
