"""Costs of a step, against the formulas of single requests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.shapes import shape_config
from model.batch import Batch
from model.config import ModelConfig
from model.scheduling.costs import StepCosts, cache_read, head_flops, prefill_flops, token_flops, weights_read
from model.scheduling.step_time import Exchange
from tests.support.checkpoints import TINY, random_model

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


@pytest.mark.parametrize("multi_query", [True, False])
def test_operations_are_those_that_pytorch_counts_of_transformers_network(multi_query: bool) -> None:
    """Where every token looks at all of them, as its attention does before the mask."""
    network = random_model(multi_query=multi_query, n_inner=96, attn_implementation="eager")
    shape = ModelConfig.model_validate(TINY | {"multi_query": multi_query, "n_inner": 96})
    for length in (1, 7):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            network(torch.arange(length)[None])
        assert length * (token_flops(shape, length) + head_flops(shape)) == counter.get_total_flops()


@pytest.mark.parametrize("tied", [True, False])
def test_the_weights_of_a_step_are_all_but_the_tables_of_which_it_takes_single_rows(tied: bool) -> None:
    network = random_model(tie_word_embeddings=tied)
    shape = ModelConfig.model_validate(TINY | {"tie_word_embeddings": tied})
    held = {name: value.numel() for name, value in network.named_parameters()}
    tables = {"transformer.wpe.weight"} | (set() if tied else {"transformer.wte.weight"})
    read = sum(count for name, count in held.items() if name not in tables)
    assert weights_read(shape, 2 * sum(held.values()), 2) == 2 * read
    assert weights_read(shape, 4 * sum(held.values()), 4) == 4 * read
    if tied:  # the head is a copy of the embedding, which is in no table then
        copied = 2 * (sum(held.values()) + held["transformer.wte.weight"])
        assert weights_read(shape, copied, 2, head_is_copied=True) == 2 * read


@pytest.mark.parametrize(("ranks", "rows"), [(1, 211), (2, 106), (4, 53), (8, 27)])
def test_a_rank_holds_its_share_of_the_embedding_rounded_up(ranks: int, rows: int) -> None:
    shape = ModelConfig.model_validate(TINY | {"tie_word_embeddings": False})
    assert weights_read(shape, 10**6, 2, ranks) == 10**6 - 2 * 64 * (256 + rows)


def test_more_key_value_heads_than_one_are_shared_out_among_ranks() -> None:
    shape = ModelConfig.model_validate(TINY | {"multi_query": False})
    costs = StepCosts(shape, 10**6, 2, ranks=4)
    # keys and values of 3 layers, 64 wide, in 2 bytes
    assert costs.read_bytes(batch([99, 9], [1, 1])) - costs.weights_read == 110 * (2 * 3 * 64 * 2) // 4
    multi_query = StepCosts(ModelConfig.model_validate(TINY), 10**6, 2, ranks=4)
    assert multi_query.read_bytes(batch([99, 9], [1, 1])) - multi_query.weights_read == 110 * (2 * 3 * 8 * 2)


def test_a_steps_parts_are_what_it_reads_computes_and_looks_at() -> None:
    exchange = Exchange(10.0, 0.5, 0.25)
    # a token behind 100, and a prompt of 64, each of which looks at itself and those before it
    parts = exchange.of(batch([100, 0], [1, 64]))
    assert parts.tolist() == [10.0, 0.5 * (101 + 64), 65, 0.25 * (101 + 64 * 65 // 2)]
