"""What recorded decode steps keep and how they are checked, with a stand-in for CUDA."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from model.batch import Batch
from model.kernels import cuda_graphs
from model.kernels.cuda_graphs import DecodeGraphs, Spare
from model.network.attention import AttentionPlan

BLOCK_SIZE = 4
captured: list[str] = []


class Stream:
    def wait_stream(self, other: Stream) -> None: ...


class Graph:
    """Replays nothing: a real graph would read memory by its address."""

    def replay(self) -> None: ...


@contextlib.contextmanager
def capture(graph: Graph, pool: object, capture_error_mode: str = "global") -> Iterator[None]:
    captured.append(capture_error_mode)
    yield


@pytest.fixture(autouse=True)
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    captured.clear()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    cuda_graphs._pool.cache_clear()


@dataclasses.dataclass(frozen=True)
class Plan:
    """As Triton's: tensors of its own, made when the step is recorded, beside those that change later."""

    slots: torch.Tensor
    contexts: torch.Tensor
    tables: torch.Tensor
    tile_sequences: torch.Tensor
    query_lens: torch.Tensor

    def attend(self, queries: torch.Tensor, cache: torch.Tensor, scale: float) -> torch.Tensor:
        raise NotImplementedError


class Network:
    """Notes which memory a step reads. attention: plans as it does, where it is given."""

    def __init__(self, attention: Any = None) -> None:
        self._attention = attention
        self.read: list[weakref.ref[torch.UntypedStorage]] = []
        self.weight = torch.ones(8)

    def plan(self, slots: torch.Tensor, contexts: torch.Tensor, tables: torch.Tensor) -> Any:
        if self._attention is not None:
            return self._attention.plan_decodes(slots, contexts, tables, 12)
        return Plan(slots, contexts, tables, torch.arange(len(slots)), torch.ones(len(slots)))

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor, plan: AttentionPlan) -> torch.Tensor:
        inputs = [positions, self.weight, *vars(plan).values()]
        self.read += [weakref.ref(value.untyped_storage()) for value in inputs if isinstance(value, torch.Tensor)]
        return tokens[:, None] + positions[:, None] + self.weight


def triton_attention() -> Any:
    pytest.importorskip("triton", reason="Triton has no build for this machine")
    from model.kernels.triton_attention import TritonAttention

    return TritonAttention(4, torch.device("cpu"))


def graphs_of(network: Network, drawn: torch.Tensor, **options: Any) -> DecodeGraphs:
    return DecodeGraphs(
        network.forward, network.plan, drawn, largest=len(drawn), table_width=3, spare=Spare(9, BLOCK_SIZE), **options
    )


@pytest.mark.parametrize("real", [False, True])
def test_all_that_a_recorded_step_reads_lives_as_long_as_the_step(real: bool) -> None:
    """A graph keeps addresses alone: what nobody else keeps is freed, and read all the same."""
    network = Network(triton_attention() if real else None)
    read = network.read
    drawn = torch.zeros(6, dtype=torch.int64)
    drawn_memory = weakref.ref(drawn.untyped_storage())
    graphs = graphs_of(network, drawn)
    del network, drawn
    gc.collect()
    tensors = 2 + (7 if real else 5)
    assert len(read) == len(captured) * 3 * tensors  # run twice before it is recorded
    assert all(memory() is not None for memory in [*read, drawn_memory])
    del graphs
    gc.collect()
    assert all(memory() is None for memory in [*read, drawn_memory])


def eagerly(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    return run


@pytest.mark.parametrize("wrong", [0.0, 0.25, float("nan")])
def test_recorded_steps_are_compared_with_the_same_steps_run_kernel_by_kernel(wrong: float) -> None:
    def nearly(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        return lambda: run() + (wrong if len(run()) == 4 else 0)

    network = Network()
    assert graphs_of(network, torch.zeros(6, dtype=torch.int64), record=eagerly).max_error() == 0
    found = graphs_of(network, torch.zeros(6, dtype=torch.int64), record=nearly).max_error()
    assert found == pytest.approx(wrong, nan_ok=True)


def test_a_batch_is_filled_up_with_rows_that_read_and_write_what_belongs_to_nobody() -> None:
    plans: list[Plan] = []
    network = Network()

    def forward(tokens: torch.Tensor, positions: torch.Tensor, plan: AttentionPlan) -> torch.Tensor:
        assert isinstance(plan, Plan)
        plans.append(plan)
        return tokens[:, None] * 100 + positions[:, None]

    network.forward = forward  # type: ignore[method-assign]
    graphs = graphs_of(network, torch.tensor([7, 8, 0, 0, 0, 0]), record=eagerly)
    batch = Batch(
        tokens=np.array([5, 0, 6]),
        positions=np.array([3, 9, 1]),
        slots=np.array([3, 17, 29]),
        query_lens=np.ones(3, dtype=np.int64),
        context_lens=np.array([4, 10, 2]),
        block_tables=np.array([[0, 0, 0], [1, 2, 4], [7, 0, 0]]),
        logit_rows=np.arange(3),
        num_decodes=3,
        drawn_rows=np.array([-1, 1, -1]),
    )
    assert graphs.fit(batch)
    assert graphs.run(batch).flatten().tolist() == [503, 809, 601]
    step = plans[-1]
    assert step.slots.tolist() == [3, 17, 29, 36]
    assert step.contexts.tolist() == [4, 10, 2, 1]
    assert step.tables.tolist() == [[0, 0, 0], [1, 2, 4], [7, 0, 0], [9, 9, 9]]
    for rows in ([2, 0, 1], [0, 1], [1, 2], [0], []):
        other = dataclasses.replace(batch, logit_rows=np.array(rows, dtype=np.int64))
        assert not graphs.fit(other), "a row of each, in the batch's order"
    assert not graphs.fit(dataclasses.replace(batch, num_decodes=2)), "nothing but decodes"
