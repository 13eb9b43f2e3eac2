"""The checks of kernels tell a wrong one from a right one; what they compare with is the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.engine.gpu import checks, draws
from benchmarks.engine.gpu.checks import DefinitionAttention, batch_of
from benchmarks.engine.gpu.context import Context
from benchmarks.engine.gpu.session import Skip, Wrong
from model.batch import Batch
from model.drawing import Table, choose
from model.network.attention import AttentionPlan, attend_reference

CPU = torch.device("cpu")


@pytest.fixture
def context() -> Context:
    return Context(CPU, "tiny")


def test_the_fast_definition_is_the_definition() -> None:
    batch = batch_of([(1, 1), (1, 20), (5, 5), (4, 33)], np.random.default_rng(0))
    generator = torch.Generator().manual_seed(0)
    cache = torch.randn(2, int(batch.block_tables.max()) + 1, checks.BLOCK, 1, 16, generator=generator)
    queries = torch.randn(len(batch.tokens), 3, 16, generator=generator)
    found = DefinitionAttention(CPU).plan(batch).attend(queries, cache, 0.25)
    torch.testing.assert_close(found, attend_reference(queries, cache, batch, 0.25))


def test_a_kernel_that_is_wrong_for_one_context_is_found(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def kernels(wrong: float) -> object:
        class Plan:
            def __init__(self, batch: Batch, splits: int) -> None:
                self.slots, self._batch, self._splits = torch.empty(0), batch, splits

            def attend(self, queries: torch.Tensor, cache: torch.Tensor, scale: float) -> torch.Tensor:
                found = DefinitionAttention(CPU).plan(self._batch).attend(queries, cache, scale)
                if self._splits == 8:
                    found[3] += wrong
                return found

        def plan(batch: Batch, splits: int) -> AttentionPlan:
            return Plan(batch, splits)

        return lambda _: plan

    monkeypatch.setattr(checks, "_kernels", kernels(0.0))
    assert checks.attention(context).metrics["largest_error"] == 0
    monkeypatch.setattr(checks, "_kernels", kernels(0.5))
    with pytest.raises(Wrong, match="off by") as caught:
        checks.attention(context)
    off = [name for name, value in caught.value.found.metrics.items() if " parts, " in name and value > 0.01]
    assert off == ["8 parts, context 65"]
    assert len(caught.value.found.rows) == 1 + len(context.sizes.splits)
    monkeypatch.setattr(checks, "_kernels", kernels(float("nan")))
    with pytest.raises(Wrong):
        checks.attention(context)


def test_a_kernel_that_draws_another_token_is_found(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_check = pytest.importorskip("model.kernels.draw_check", reason="Triton has no build for this machine")

    def another(logits: torch.Tensor, table: Table) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, best = choose(logits, table)
        return (tokens + (torch.arange(len(tokens)) == 7)) % logits.shape[1], best

    monkeypatch.setattr(draws, "_kernel", lambda _: (choose, draw_check))
    right = draws.draws(context)
    assert (right.metrics["wrong_rows"], right.metrics["near_ties"]) == (0, 0)
    monkeypatch.setattr(draws, "_kernel", lambda _: (another, draw_check))
    with pytest.raises(Wrong, match="in 1 of") as caught:
        draws.draws(context)
    assert len(caught.value.found.rows) == len(right.rows) > 5


def test_without_a_gpu_or_an_interpreter_they_say_so(context: Context) -> None:
    pytest.importorskip("triton", reason="Triton has no build for this machine")
    for check in (checks.attention, checks.recorded_step, draws.draws):
        with pytest.raises(Skip, match="needs a GPU"):
            check(context)
