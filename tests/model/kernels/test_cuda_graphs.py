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
from hypothesis import given, settings
from hypothesis import strategies as st

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


class Plan:
    """As Triton's: tensors of its own, made when the step is recorded, and batches that change later."""

    def __init__(self, slots: torch.Tensor) -> None:
        self.slots = slots
        self.tile_sequences = torch.arange(len(slots))
        self.held: list[Batch] = []

    def hold(self, batch: Batch) -> None:
        self.held.append(batch)

    def attend(self, queries: torch.Tensor, cache: torch.Tensor, scale: float) -> torch.Tensor:
        raise NotImplementedError


class Network:
    """Notes which memory a step reads. attention: plans as it does, where it is given."""

    def __init__(self, attention: Any = None) -> None:
        self._attention = attention
        self.read: list[weakref.ref[torch.UntypedStorage]] = []
        self.weight = torch.ones(8)

    def plan(self, slots: torch.Tensor) -> Any:
        return Plan(slots) if self._attention is None else self._attention.plan_of_size(slots, 3, 9, 12)

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor, plan: AttentionPlan) -> torch.Tensor:
        inputs = [positions, self.weight, *vars(plan).values()]
        self.read += [weakref.ref(value.untyped_storage()) for value in inputs if isinstance(value, torch.Tensor)]
        return tokens[:, None] + positions[:, None] + self.weight


def triton_attention(heads: int = 4) -> Any:
    pytest.importorskip("triton", reason="Triton has no build for this machine")
    from model.kernels.triton_attention import TritonAttention

    return TritonAttention(heads, torch.device("cpu"))


def graphs_of(network: Network, drawn: torch.Tensor, **options: Any) -> DecodeGraphs:
    return DecodeGraphs(network.forward, network.plan, drawn, largest=len(drawn), spare=Spare(9, BLOCK_SIZE), **options)


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
    tensors = 2 + (8 if real else 2)
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


@pytest.mark.parametrize("drafted", [0, 2])
def test_a_batch_is_filled_up_with_rows_that_write_what_belongs_to_nobody(drafted: int) -> None:
    """Whether its rows are all of sequences of their own, or some are of a draft."""
    plans: list[Plan] = []
    network = Network()

    def forward(tokens: torch.Tensor, positions: torch.Tensor, plan: AttentionPlan) -> torch.Tensor:
        assert isinstance(plan, Plan)
        plans.append(plan)
        return tokens[:, None] * 100 + positions[:, None]

    network.forward = forward  # type: ignore[method-assign]
    graphs = graphs_of(network, torch.tensor([7, 8, 0, 0, 0, 0]), record=eagerly)
    lens = [1, 1 + drafted, *[1] * (2 - drafted)]
    batch = Batch(
        tokens=np.array([5, 0, 6, 4]),
        positions=np.array([3, 9, 10, 11]),
        slots=np.array([3, 17, 18, 19]),
        query_lens=np.array(lens),
        context_lens=np.array([4, 12, 11, 12][: len(lens)]),
        block_tables=np.array([[0, 0, 0], [1, 2, 4], [1, 2, 4], [1, 2, 4]][: len(lens)]),
        logit_rows=np.arange(4),
        num_decodes=lens.count(1),
        drawn_rows=np.array([-1, 1, -1, -1]),
    )
    assert graphs.fit(batch)
    assert graphs.run(batch).flatten().tolist() == [503, 809, 610, 411]
    assert plans[-1].slots.tolist() == [3, 17, 18, 19]
    part = {name: getattr(batch, name)[:3] for name in ("tokens", "positions", "slots", "drawn_rows")}
    fewer = dataclasses.replace(batch, **part, query_lens=np.array([1, 2]), logit_rows=np.arange(3))
    assert graphs.run(fewer).flatten().tolist() == [503, 809, 610]
    assert plans[-1].slots.tolist() == [3, 17, 18, 36]
    assert plans[-1].held == [batch, fewer]
    for rows in ([2, 0, 1, 3], [0, 1, 3]):
        assert not graphs.fit(dataclasses.replace(batch, logit_rows=np.array(rows))), "all rows, in the batch's order"


@given(st.data())
@settings(deadline=None)
def test_whatever_a_recorded_step_of_attention_holds_has_the_tiles_of_its_batch(data: st.DataObject) -> None:
    """No shape and no address changes; each token has its sequence's tiles, those of no batch read the spare block."""
    attention = triton_attention(heads=data.draw(st.sampled_from([1, 4, 12, 16, 48, 70]), "heads"))
    size = data.draw(st.integers(1, 24), "size")
    plan = attention.plan_of_size(torch.zeros(size, dtype=torch.int64), 8, 99, 32)
    places = {name: (t.data_ptr(), t.shape) for name, t in vars(plan).items() if isinstance(t, torch.Tensor)}
    assert all(where % 16 == 0 for where, _ in places.values())
    splits = plan.splits
    for _ in range(3):
        lens = np.array(data.draw(st.lists(st.integers(1, 9), min_size=1).filter(lambda ls: sum(ls) <= size), "tokens"))
        contexts = lens + data.draw(st.integers(0, 20))
        tables = np.arange(len(lens) * 8).reshape(-1, 8)[:, : -(-int(contexts.max()) // BLOCK_SIZE)]
        nothing = np.zeros(0, dtype=np.int64)
        tokens = np.zeros(lens.sum(), dtype=np.int64)
        batch = Batch(tokens, tokens, tokens, lens, contexts, tables, nothing, num_decodes=0)
        plan.hold(batch)
        now = {name: (t.data_ptr(), t.shape) for name, t in vars(plan).items() if isinstance(t, torch.Tensor)}
        assert (now, plan.splits) == (places, splits)
        tiles = list(zip(plan.tile_sequences.tolist(), plan.tile_firsts.tolist(), strict=True))
        heads, rows = plan.heads, plan.rows
        filled = [*lens.tolist(), *[1] * (size - lens.sum())]
        needed = [(s, first) for s, n in enumerate(filled) for first in range(0, n * heads, rows)]
        assert tiles[: len(needed)] == needed
        assert plan.query_lens.tolist() == [*filled, *[0] * (size - len(filled))]
        assert plan.query_starts.tolist()[: len(filled)] == (np.cumsum(filled) - filled).tolist()
        assert plan.context_lens.tolist() == [*contexts.tolist(), *[1] * (size - len(lens))]
        used = tables.shape[1]
        assert plan.tables[: len(lens), :used].tolist() == tables.tolist()
        assert (plan.tables[len(lens) :, 0] == 99).all()
        assert all(plan.query_lens[sequence] == 0 for sequence, _ in tiles[len(needed) :])
