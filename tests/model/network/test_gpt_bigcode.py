"""The network on its own, in PyTorch's operations, against transformers': every row, and the rows that are wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPTBigCodeForCausalLM

from model.batch import Batch
from model.checkpoint.weights import part_of
from model.config import ModelConfig
from model.network.gpt_bigcode import GPTBigCode
from model.network.layers import Linear
from model.network.parallel import TensorParallel
from model.network.sdpa_attention import SdpaAttention
from tests.support.checkpoints import TINY, random_model
from tests.support.thread_ranks import as_ranks

BLOCK = 4
TOKENS = [[5, 9, 200, 3, 5, 7, 1], [8, 8, 2]]

SHAPES: dict[str, dict[str, Any]] = {
    "multi-query": {},
    "multi-head": {"multi_query": False},
    "head of its own": {"tie_word_embeddings": False},
    "unscaled": {"scale_attn_weights": False},
    "relu, loose norms": {"activation_function": "relu", "layer_norm_epsilon": 0.5},
    "exact gelu": {"activation_function": "gelu"},
}


def placed(network: GPTBigCode, theirs: GPTBigCodeForCausalLM, model: ModelConfig, group: TensorParallel) -> GPTBigCode:
    """This rank's part of each of their parameters; those of linear layers as they are."""
    state = {name.removeprefix("transformer."): value for name, value in theirs.state_dict().items()}
    for name, shape in [(name, parameter.shape) for name, parameter in network.named_parameters()]:
        part = part_of(name, model, group)
        rows = [state[name][rows] if part.columns is None else state[name][rows, part.columns] for rows in part.rows]
        value = torch.zeros(shape)
        value[: sum(map(len, rows))] = torch.cat(rows)
        network.place(name, value)
    return network


def batch_of(sequences: list[list[int]], computed: list[int]) -> Batch:
    """What follows `computed` tokens of each sequence, whose blocks lie in reverse order."""
    counts = np.array([len(s) - c for s, c in zip(sequences, computed, strict=True)])
    positions = np.concatenate([np.arange(c, len(s)) for s, c in zip(sequences, computed, strict=True)])
    tables = np.array([[1, 0], [3, 2]])[: len(sequences)]
    owner = np.repeat(np.arange(len(sequences)), counts)
    return Batch(
        tokens=np.concatenate([s[c:] for s, c in zip(sequences, computed, strict=True)]),
        positions=positions,
        slots=tables[owner, positions // BLOCK] * BLOCK + positions % BLOCK,
        query_lens=counts,
        context_lens=np.array([len(s) for s in sequences]),
        block_tables=tables,
        logit_rows=np.arange(len(positions)),
        num_decodes=int((counts == 1).sum()),
    )


def steps_of(network: GPTBigCode, model: ModelConfig, heads: int) -> list[torch.Tensor | None]:
    """Logits of a prefill of both sequences but for their last tokens, then of those."""
    device = torch.device("cpu")
    attention = SdpaAttention(BLOCK, device, torch.float32)
    cache = torch.zeros(model.n_layer, 2, 4, BLOCK, heads, model.head_dim)
    found = []
    whole = [len(tokens) - 1 for tokens in TOKENS]
    for batch in (batch_of([t[:-1] for t in TOKENS], [0, 0]), batch_of(TOKENS, whole)):
        hidden = network(
            torch.from_numpy(batch.tokens), torch.from_numpy(batch.positions), cache, attention.plan(batch)
        )
        found.append(network.logits(hidden))
    return found


@torch.inference_mode()
def definition(theirs: GPTBigCodeForCausalLM) -> list[torch.Tensor]:
    rows = [theirs(torch.tensor([tokens])).logits[0] for tokens in TOKENS]
    return [torch.cat([each[:-1] for each in rows]), torch.cat([each[-1:] for each in rows])]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@torch.inference_mode()
def test_logits_are_transformers(shape: dict[str, Any]) -> None:
    theirs, model, group = random_model(**shape), ModelConfig.model_validate(TINY | shape), TensorParallel()
    network = placed(GPTBigCode.without_storage(model, group), theirs, model, group)
    for found, expected in zip(steps_of(network, model, model.n_kv_head), definition(theirs), strict=True):
        assert found is not None
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("shape", [{}, {"multi_query": False}, {"vocab_size": 209}], ids=str)
@torch.inference_mode()
def test_ranks_have_a_part_each(shape: dict[str, Any], size: int) -> None:
    theirs, model = random_model(**shape), ModelConfig.model_validate(TINY | shape)

    def rank(group: TensorParallel) -> tuple[int, list[torch.Tensor | None]]:
        with torch.inference_mode():
            network = placed(GPTBigCode.without_storage(model, group), theirs, model, group)
            heads = 1 if model.multi_query else model.n_head // size
            return sum(p.numel() for p in network.h.parameters()), steps_of(network, model, heads)

    (weights, first), *others = as_ranks(size, 1, rank)
    for found, expected in zip(first, definition(theirs), strict=True):
        assert found is not None
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    assert [logits for _, logits in others] == [[None, None]] * (size - 1)
    assert weights < sum(p.numel() for p in theirs.transformer.h.parameters()) / size * 1.5


@torch.inference_mode()
def test_the_last_block_goes_on_with_the_rows_that_are_wanted() -> None:
    """Keys and values of all tokens are written all the same."""
    theirs, model, group = random_model(), ModelConfig.model_validate(TINY), TensorParallel()
    network = placed(GPTBigCode.without_storage(model, group), theirs, model, group)
    attention = SdpaAttention(BLOCK, torch.device("cpu"), torch.float32)
    batch = batch_of(TOKENS, [0, 0])
    inputs = torch.from_numpy(batch.tokens), torch.from_numpy(batch.positions)
    caches = [torch.zeros(model.n_layer, 2, 4, BLOCK, 1, model.head_dim) for _ in range(2)]
    every = network(*inputs, caches[0], attention.plan(batch))
    rows = torch.tensor([9, 2, 6])
    some = network(*inputs, caches[1], attention.plan(batch), rows)
    torch.testing.assert_close(some, every[rows])
    assert torch.equal(caches[0], caches[1])


@torch.inference_mode()
def test_parameters_that_are_one_count_once_and_linear_layers_take_other_forms() -> None:
    theirs, model, group = random_model(), ModelConfig.model_validate(TINY), TensorParallel()
    network = placed(GPTBigCode.without_storage(model, group), theirs, model, group)
    assert network.parameter_bytes == 4 * (theirs.num_parameters() + 211 * 64), "placed apart"
    network.place("lm_head.weight", network.wte.weight)
    assert network.parameter_bytes == 4 * theirs.num_parameters()
    replaced: list[tuple[int, ...]] = []

    def halved(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
        replaced.append(tuple(weight.shape))
        return Linear(weight / 2, bias)

    before = network.h[0].mlp.c_fc.weight.clone()
    network.replace_linears(halved)
    assert len(replaced) == 4 * model.n_layer + 1
    assert torch.equal(network.h[0].mlp.c_fc.weight, before / 2)
