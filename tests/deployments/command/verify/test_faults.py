"""Faults that somebody planted in the engine are found, in the cases that take their way; and without them none is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.command.verify.judging import Judgement
from model import engine as engine_module
from model.backends.plain import PlainBackend
from model.batch import Batch
from model.checkpoint import weights
from model.network import sdpa_attention
from model.network.operations import TorchOperations
from model.scheduling import kv_cache, scheduler
from tests.support.checkpoints import random_model, write_checkpoint
from tests.support.verified import VOCABULARY, config_of, judged, material

pytestmark = pytest.mark.usefixtures("only_new_garbage")

ALL = {
    "one by one",
    "every position of a prompt",
    "fill in the middle",
    "many at once",
    "prompts in parts",
    "prefix cache",
    "speculation",
    "preemption",
    "as served",
}
SHAPE = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_inner": 64, "vocab_size": VOCABULARY}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("verified"), random_model(**SHAPE))


def wrong(judgement: Judgement) -> set[str]:
    """Names of the cases that disagree."""
    return {case.name for case in judgement.cases if case.faults}


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ({}, {"dtype": "float32"}),
        ({}, {"dtype": "bfloat16"}),
        ({"multi_query": False, "tie_word_embeddings": False}, {"dtype": "float32"}),
        ({}, {"dtype": "float32", "tensor_parallel_size": 2}),
        ({}, {"dtype": "bfloat16", "cpu_kernels": "torch", "tensor_parallel_size": 2}),
    ],
    ids=["float32", "bfloat16", "multi-head", "two ranks", "two ranks in bfloat16"],
)
def test_what_is_right_agrees(shape: dict[str, object], options: dict[str, object], tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, random_model(**{**SHAPE, **shape}))
    judgement = judged(config_of(directory, **options), directory, material(quick=False))
    assert judgement.faults == []
    assert {case.name for case in judgement.cases} == ALL
    assert [case.name for case in judgement.cases if case.note] == []
    assert judgement.engine.rms <= 1.5 * judgement.transformers.rms
    assert all(case.continuations >= 2 for case in judgement.cases if case.name != "every position of a prompt")


def test_a_scale_that_is_off_in_one_layer(checkpoint: Path, tmp_path: Path) -> None:
    model = random_model(**SHAPE)
    model.transformer.h[1].mlp.c_proj.weight.data *= 1.01
    judgement = judged(config_of(write_checkpoint(tmp_path, model)), checkpoint)
    assert wrong(judgement) == ALL


def test_a_bias_that_is_dropped_is_found_beneath_bfloat16(checkpoint: Path, tmp_path: Path) -> None:
    model = random_model(**SHAPE)
    model.transformer.h[0].attn.c_proj.bias.data.zero_()
    directory = write_checkpoint(tmp_path, model)
    assert wrong(judged(config_of(directory, dtype="bfloat16"), checkpoint)) == ALL


Plant = Callable[[pytest.MonkeyPatch], None]


def swapped_keys_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    write = TorchOperations.write

    def swapped(self: TorchOperations, cache: torch.Tensor, qkv: torch.Tensor, slots: torch.Tensor) -> None:
        write(self, cache, _swap(qkv, cache.shape[3]), slots)

    monkeypatch.setattr(TorchOperations, "write", swapped)


def _swap(qkv: torch.Tensor, kv_heads: int) -> torch.Tensor:
    queries, keys, values = qkv.split([qkv.shape[1] - 2 * kv_heads, kv_heads, kv_heads], dim=1)
    return torch.cat([queries, values, keys], dim=1)


def a_later_part_one_position_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    run = PlainBackend.run

    def early(self: PlainBackend, batch: Batch, *rest: torch.Tensor) -> torch.Tensor | None:
        later = (batch.context_lens > batch.query_lens) & (batch.query_lens > 1)
        shift = np.repeat(later, batch.query_lens).astype(batch.positions.dtype)
        return run(self, replace(batch, positions=batch.positions - shift), *rest)

    monkeypatch.setattr(PlainBackend, "run", early)


def a_long_context_that_forgets_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = sdpa_attention.F.scaled_dot_product_attention

    def forgets(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, **options: object) -> torch.Tensor:
        if keys.shape[-2] > 160:
            values = values.clone()
            values[..., :16, :] = 0
        return attend(queries, keys, values, **options)

    class Forgetful:
        scaled_dot_product_attention = staticmethod(forgets)

    monkeypatch.setattr(sdpa_attention, "F", Forgetful)


def drafts_that_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    accept = engine_module.accept

    def believe(scheduled, sampled, row, eos):  # type: ignore[no-untyped-def]
        for place, token in enumerate(scheduled.draft):
            sampled.tokens[row + place] = token
        return accept(scheduled, sampled, row, eos)

    monkeypatch.setattr(engine_module, "accept", believe)


def blocks_found_by_their_place_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def hashes(tokens, block_size, known=(), root=kv_cache.ROOT):  # type: ignore[no-untyped-def]
        return [bytes([place]) for place in range(len(tokens) // block_size)]

    monkeypatch.setattr(scheduler, "chain_hashes", hashes)


@pytest.mark.parametrize(
    ("plant", "found", "spared"),
    [
        (swapped_keys_and_values, ALL, set()),
        (
            a_later_part_one_position_too_early,
            {"prompts in parts", "prefix cache", "speculation"},
            {"one by one", "every position of a prompt", "many at once", "fill in the middle", "preemption"},
        ),
        (
            a_long_context_that_forgets_its_beginning,
            {"one by one", "every position of a prompt"},
            ALL - {"one by one", "every position of a prompt"},
        ),
        (drafts_that_are_believed, {"speculation"}, ALL - {"speculation", "as served"}),
        (blocks_found_by_their_place_alone, {"prefix cache"}, ALL - {"prefix cache", "as served"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_planted_fault_is_found_where_it_is(
    plant: Plant, found: set[str], spared: set[str], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    named = wrong(judged(config_of(checkpoint, max_num_batched_tokens=400), checkpoint))
    assert found <= named
    assert not spared & named


def test_a_rank_with_the_wrong_part_of_the_weights(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part_of = weights.part_of

    def wrong_part(name: str, config: object, group: object) -> weights.Part:
        part = part_of(name, config, group)
        if name.endswith("h.1.mlp.c_proj.weight") and group.rank == 1:
            return weights.Part(part.rows, slice(0, part.columns.stop - part.columns.start))
        return part

    monkeypatch.setattr(weights, "part_of", wrong_part)
    judgement = judged(config_of(checkpoint, tensor_parallel_size=2), checkpoint)
    assert wrong(judgement) == ALL
