"""Costs of a step, against the formulas of single requests."""

from __future__ import annotations

import numpy as np

from benchmarks.shapes import shape_config
from model.batch import Batch
from model.config import ModelConfig
from model.scheduling.costs import StepCosts, cache_read, prefill_flops, weights_read

MODEL = ModelConfig.model_validate(shape_config("1b"))


def batch(computed: list[int], counts: list[int]) -> Batch:
    lens = np.array(counts)
    positions = np.concatenate([np.arange(c, c + n) for c, n in zip(computed, counts, strict=True)])
    nothing = np.zeros(len(positions), dtype=np.int64)
    tables = np.zeros((len(counts), 1), dtype=np.int64)
    rows = np.cumsum(lens) - 1
    return Batch(nothing, positions, nothing, lens, np.array(computed) + lens, tables, rows, 0)


def test_a_prefill_in_one_step_costs_what_the_prompt_does() -> None:
    costs = StepCosts(MODEL, 2_000_000_000, 2)
    assert costs.flops(batch([0], [300])) == prefill_flops(MODEL, 300)
    assert costs.flops(batch([100], [200])) == prefill_flops(MODEL, 300, cached=100)


def test_sequences_of_a_step_add_up_and_ranks_share() -> None:
    costs = StepCosts(MODEL, 2_000_000_000, 2)
    together = batch([100, 0], [1, 64])
    assert costs.flops(together) == prefill_flops(MODEL, 101, cached=100) + prefill_flops(MODEL, 64)
    assert StepCosts(MODEL, 2_000_000_000, 2, ranks=2).flops(together) == costs.flops(together) // 2


def test_a_step_reads_the_weights_once_and_every_sequences_cache() -> None:
    costs = StepCosts(MODEL, 2_000_000_000, 2)
    assert costs.read_bytes(batch([99, 9], [1, 1])) == weights_read(MODEL, 2_000_000_000, 2) + cache_read(
        MODEL, [100, 10], 2
    )
    # the one key/value head is on every rank
    assert StepCosts(MODEL, 1_000_000_000, 2, ranks=2).read_bytes(batch([99], [1])) == weights_read(
        MODEL, 1_000_000_000, 2
    ) + cache_read(MODEL, [100], 2)
    # or a stripe of it
    striped = StepCosts(MODEL, 1_000_000_000, 2, ranks=4, stripes=2)
    assert striped.read_bytes(batch([99], [1])) == striped.weights_read + cache_read(MODEL, [50], 2)


def test_an_embedding_beside_a_head_of_its_own_is_not_read() -> None:
    tables = 2 * MODEL.n_embd * (MODEL.n_positions + MODEL.vocab_size // 2)
    assert StepCosts(MODEL, 1_000_000_000, 2, ranks=2, head_is_copied=True).weights_read == 1_000_000_000 - tables
