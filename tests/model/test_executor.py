"""Rank 0's handle on the others, and their loop, with a network that only notes what it is asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import torch

from model import executor as executor_module
from model.batch import Batch
from model.executor import PING, Executor, ForwardTimer, run_worker
from model.runner import Runner
from model.statistics import GpuMemory

GPUS = [GpuMemory(name, used, 100) for name, used in (("first", 1), ("second", 2))]


def batch(tokens: int, broadcasts: int = 0) -> Batch:
    places = np.arange(tokens)
    one = np.array([tokens])
    return Batch(places, places, places, one, one, np.zeros((1, 1), dtype=np.int64), places, 0, broadcasts)


class Group:
    """A wire on which messages wait to be read, and what was said on it."""

    def __init__(self, size: int, messages: list[bytes] | None = None) -> None:
        self.size = size
        self.sent: list[bytes] = []
        self.replied: list[bytes] = []
        self._messages = messages or []
        self.answers: list[bytes] = []
        self.patience: list[float] = []

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def recv(self) -> bytes | None:
        return self._messages.pop(0) if self._messages else None

    def reply(self, message: bytes) -> None:
        self.replied.append(message)

    def replies(self, timeout_s: float) -> list[bytes]:
        self.patience.append(timeout_s)
        return self.answers


class Noting:
    """A runner. ran: tokens of the batches; received: counts, and what was given."""

    def __init__(self, group: Group, gpu: GpuMemory | None = None, device: str = "cpu") -> None:
        self.group, self.device = group, torch.device(device)
        self.ran: list[int] = []
        self.received: list[tuple[int, Any]] = []
        self._gpu = gpu
        self.backend = SimpleNamespace(late_compilations=7)
        self.choose_tokens: Any = None

    def run(self, batch: Batch) -> torch.Tensor:
        self.ran.append(len(batch.tokens))
        return torch.full((1,), float(len(batch.tokens)))

    def receive(self, count: int, tokens: torch.Tensor | None = None) -> None:
        self.received.append((count, tokens))

    def gpu_memory(self) -> GpuMemory | None:
        return self._gpu


def executor_of(runner: Noting) -> Executor:
    return Executor(cast(Runner, runner))


@pytest.mark.parametrize("size", [1, 2])
def test_a_batch_runs_everywhere(size: int) -> None:
    runner = Noting(Group(size))
    executor = executor_of(runner)
    before = executor.timer
    logits = executor.run(batch(3))
    assert logits is not None
    assert logits.tolist() == [3.0]
    assert runner.ran == [3]
    assert executor.timer is not before, "each pass is timed by itself"
    assert executor.timer.seconds() > 0
    assert [len(Batch.from_bytes(message).tokens) for message in runner.group.sent] == [3] * (size - 1)
    assert executor.late_compilations == 7


def test_what_was_drawn_goes_to_all_ranks_as_many_as_there_are() -> None:
    runner = Noting(Group(1))
    tokens = torch.tensor([4, 5])
    executor_of(runner).broadcast(tokens)
    assert runner.received == [(2, tokens)]


def test_only_rank_0_draws() -> None:
    runner = Noting(Group(2))
    executor = executor_of(runner)
    with pytest.raises(AssertionError, match="only rank 0 draws"):
        _ = executor.choose_tokens
    runner.choose_tokens = len
    assert executor.choose_tokens is len


@pytest.mark.parametrize(
    ("own", "others", "found"), [(GPUS[0], [GPUS[1], None], GPUS), (None, [None], []), (GPUS[0], [], GPUS[:1])]
)
def test_a_ping_asks_every_rank_for_its_gpu(
    own: GpuMemory | None, others: list[GpuMemory | None], found: list[GpuMemory]
) -> None:
    group = Group(1 + len(others))
    group.answers = [msgspec.msgpack.encode(gpu) for gpu in others]
    assert executor_of(Noting(group, own)).ping(2.5) == found
    assert (group.sent, group.patience) == ([PING], [2.5])


def test_memory_is_given_back_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[int] = []
    monkeypatch.setattr(executor_module.torch.cuda, "empty_cache", lambda: emptied.append(1))
    executor = executor_of(Noting(Group(1)))
    executor.free_memory()
    assert not emptied
    cast(Any, executor.runner).device = torch.device("cuda")
    executor.free_memory()
    assert emptied == [1]


def test_other_ranks_do_what_rank_0_says_until_it_is_gone() -> None:
    group = Group(2, [batch(3).to_bytes(), PING, batch(1, broadcasts=2).to_bytes(), PING])
    runner = Noting(group, GPUS[1])
    run_worker(cast(Runner, runner))
    assert runner.ran == [3, 1]
    assert runner.received == [(2, None)], "of the steps whose tokens the next one takes"
    assert [msgspec.msgpack.decode(reply, type=GpuMemory) for reply in group.replied] == [GPUS[1]] * 2


class Event:
    """CUDA's. ended: the GPU has come by."""

    ended = False

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing
        self.recorded = 0

    def record(self) -> None:
        self.recorded += 1

    def query(self) -> bool:
        return self.ended and self.recorded == 1

    def elapsed_time(self, other: Event) -> float:
        assert self.recorded == other.recorded == 1
        return 250.0


def test_a_gpus_own_clock_tells_how_long_it_took_once_it_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module.torch.cuda, "Event", Event)
    monkeypatch.setattr(Event, "ended", False)
    now = iter([10.0, 10.5])
    monkeypatch.setattr(executor_module, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    timer = ForwardTimer(torch.device("cuda"))
    assert timer.seconds() == 0, "it has not stopped"
    timer.stop()
    assert timer.seconds() == 0.5, "the call alone"
    Event.ended = True
    assert timer.seconds() == 0.25
