"""Logits and greedy ids equal those of transformers' GPTBigCodeForCausalLM in float32."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from model.batch import Batch
from model.config import EngineConfig
from model.engine import Engine
from model.process.rank import Rank
from model.request import Request, SamplingParams
from tests.support.checkpoints import random_model, write_checkpoint
from tests.support.ranks import RankGroup, collect
from tests.support.toy_engine import run_to_end, tokens_of

SHAPES = {
    "multi-query, tied": {},
    "multi-query, untied head": {"tie_word_embeddings": False},
    "multi-head": {"multi_query": False},
    "santacoder-like": {"n_inner": None, "vocab_size": 173, "activation_function": "gelu_fast", "n_head": 4},
}
WINDOW = 256
NEW_TOKENS = 12
FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX = 1, 2, 3


@pytest.fixture(scope="module")
def reference():
    return random_model()


@pytest.fixture(scope="module")
def checkpoint(reference, tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), reference)


def prompts_of_all_lengths(vocab_size: int) -> list[list[int]]:
    """56 prompts: lengths 1 to the full window, shared prefixes, and FIM in both orders."""
    rng = random.Random(7)
    ids = lambda n: [rng.randrange(19, vocab_size) for _ in range(n)]  # noqa: E731
    lengths = [1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 100, 127, 128, 129, 160, 200, 240, 250, 254, 255]
    prompts = [ids(n) for n in lengths]
    stem = ids(90)
    prompts += [stem[:n] + ids(5) for n in (16, 32, 40, 48, 64, 80, 90, 90)]
    for n in (1, 5, 20, 50, 70, 100):
        prefix, suffix = ids(n), ids(n // 2)
        prompts += [
            [FIM_PREFIX, *prefix, FIM_SUFFIX, *suffix, FIM_MIDDLE],
            [FIM_PREFIX, FIM_SUFFIX, *suffix, FIM_MIDDLE, *prefix],
        ]
    return prompts + [prompts[5][:1] * n for n in range(20, 32)]


def greedy_reference(model, prompts: list[list[int]]) -> list[list[int]]:
    """The definition: the whole sequence through the network for every token, one prompt at a time."""
    results = []
    with torch.inference_mode():
        for prompt in prompts:
            out = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                do_sample=False,
                max_new_tokens=min(NEW_TOKENS, WINDOW - len(prompt)),
                eos_token_id=None,
                pad_token_id=0,
            )
            results.append(out[0, len(prompt) :].tolist())
    return results


def requests_for(prompts: list[list[int]]) -> list[Request]:
    params = SamplingParams(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)
    return [Request(str(n), prompt, params) for n, prompt in enumerate(prompts)]


def engine_config(directory: Path, **options: object) -> EngineConfig:
    return EngineConfig(
        model=str(directory), **{"dtype": "float32", "device": "cpu", "num_threads": 1, "num_kv_blocks": 512, **options}
    )


def loaded(directory: Path, **options: object) -> Rank:
    rank = Rank(engine_config(directory, **options))
    rank.load()
    return rank


def all_logits(rank: Rank, ids: torch.Tensor, chunks: list[tuple[int, int]]) -> torch.Tensor:
    """The logits of every position, with the sequence computed chunk by chunk in scattered blocks."""
    blocks = np.array([[9, 3, 4, 0, 7, 1, 5, 2, 8, 6]])
    got = []
    for start, stop in chunks:
        positions = np.arange(start, stop)
        batch = Batch(
            tokens=ids[start:stop].numpy(),
            positions=positions,
            slots=blocks[0, positions // 16] * 16 + positions % 16,
            query_lens=np.array([stop - start]),
            context_lens=np.array([stop]),
            block_tables=blocks,
            logit_rows=np.arange(stop - start),
            num_decodes=int(stop - start == 1),
        )
        got.append(rank._runner.run(batch))
    return torch.cat(got)


def run_all(engine: Engine, prompts: list[list[int]]) -> list[list[int]]:
    for request in requests_for(prompts):
        engine.add(request)
    outputs = run_to_end(engine)
    return [tokens_of(outputs[str(n)]) for n in range(len(prompts))]


@pytest.fixture(scope="module")
def expected(reference) -> list[list[int]]:
    prompts = prompts_of_all_lengths(reference.config.vocab_size)
    assert len(prompts) >= 50
    return greedy_reference(reference, prompts)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_logits_of_every_position(shape, tmp_path):
    model = random_model(seed=3, **shape)
    rank = loaded(write_checkpoint(tmp_path, model))
    ids = torch.randint(0, model.config.vocab_size, (150,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        want = model(ids[None]).logits[0]
    got = all_logits(rank, ids, [(0, 1), (1, 70), (70, 71), (71, 150)])  # chunks that start inside blocks
    difference = (got - want).abs().max()
    assert difference < 1e-4, difference
    assert want.std() > 0.1, "the reference must not be flat"


@pytest.mark.parametrize("shape", list(SHAPES.values())[1:], ids=list(SHAPES)[1:])
def test_greedy_ids_of_the_other_shapes(shape, tmp_path):
    model = random_model(seed=4, **shape)
    prompts = prompts_of_all_lengths(model.config.vocab_size)[::3]
    engine = loaded(write_checkpoint(tmp_path, model)).engine()
    assert run_all(engine, prompts) == greedy_reference(model, prompts)


@pytest.mark.parametrize(
    "options",
    [
        {"max_num_seqs": 1, "enable_prefix_caching": False},
        {"max_num_seqs": 16, "max_num_batched_tokens": 48},
        {"max_num_seqs": 56, "max_num_batched_tokens": 4096},
        {"max_num_seqs": 8, "max_num_batched_tokens": 16, "num_kv_blocks": 24},
        {"block_size": 1, "max_num_seqs": 8, "num_kv_blocks": 3000},
        {"block_size": 64},
        {"speculative_tokens": 6, "max_num_seqs": 16},
        {"async_scheduling": True, "max_num_seqs": 8, "max_num_batched_tokens": 32, "num_kv_blocks": 24},
    ],
    ids=[
        "one by one",
        "small chunks",
        "one large batch",
        "scarce blocks",
        "blocks of one",
        "blocks of 64",
        "speculation",
        "steps one behind the other",
    ],
)
def test_greedy_ids_whatever_the_batch(options, checkpoint, reference, expected):
    prompts = prompts_of_all_lengths(reference.config.vocab_size)
    engine = loaded(checkpoint, **options).engine()
    for run in range(2):  # the second time from the cache
        assert run_all(engine, prompts) == expected, f"run {run}"


@pytest.mark.parametrize(("size", "async_scheduling"), [(2, True), (4, False), (8, False)])
async def test_greedy_ids_whatever_the_tensor_parallel_size(size, async_scheduling, checkpoint, reference, expected):
    prompts = prompts_of_all_lengths(reference.config.vocab_size)
    config = engine_config(
        checkpoint, tensor_parallel_size=size, max_num_batched_tokens=512, async_scheduling=async_scheduling
    )
    with RankGroup(config) as group:
        async with group.client() as client:
            outputs = await asyncio.gather(*(collect(client, request) for request in requests_for(prompts)))
            stats = await client.ping(60)
        assert [tokens_of(o) for o in outputs] == expected
        assert group.wait_ended() == [0] * size
    whole = sum(p.numel() * 4 for p in reference.parameters())
    assert stats.parameter_bytes == [report["parameter_bytes"] for report in group.reports]
    replicated = sum(
        p.numel() * 4 for name, p in reference.named_parameters() if ".ln_" in name or "ln_f" in name or "wpe" in name
    )
    key_value = reference.config.n_layer * 2 * 8 * (64 + 1) * 4  # two heads of 8, weight rows and bias
    for held in stats.parameter_bytes:
        assert held <= (whole - replicated - key_value) / size * 1.1 + replicated + key_value


async def test_multi_head_attention_is_split_by_heads(tmp_path):
    model = random_model(seed=5, multi_query=False, tie_word_embeddings=False)
    prompts = prompts_of_all_lengths(model.config.vocab_size)[::5]
    config = engine_config(write_checkpoint(tmp_path, model), tensor_parallel_size=2)
    with RankGroup(config) as group:
        async with group.client() as client:
            outputs = await asyncio.gather(*(collect(client, request) for request in requests_for(prompts)))
    assert [tokens_of(o) for o in outputs] == greedy_reference(model, prompts)


def test_bfloat16_errs_no_more_than_transformers_in_bfloat16(checkpoint, reference):
    rank = loaded(checkpoint, dtype="bfloat16")
    ids = torch.randint(0, reference.config.vocab_size, (128,), generator=torch.Generator().manual_seed(2))
    low = type(reference).from_pretrained(checkpoint, dtype=torch.bfloat16)
    with torch.inference_mode():
        want = reference(ids[None]).logits[0]
        theirs = (low(ids[None]).logits[0].float() - want).pow(2).mean().sqrt()
    ours = (all_logits(rank, ids, [(0, 128)]) - want).pow(2).mean().sqrt()
    assert ours < 1.1 * theirs, (float(ours), float(theirs))
