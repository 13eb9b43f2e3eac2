"""Ranks that share one cache answer what one rank answers (decode context parallelism)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from model.batch import Batch
from model.config import ConfigError, EngineConfig, ModelConfig
from model.engine import Engine
from model.executor import Executor, run_worker
from model.network.parallel import TensorParallel
from model.request import Request, SamplingParams
from model.runner import Runner
from tests.support.checkpoints import random_model, write_checkpoint
from tests.support.ranks import RankGroup, collect
from tests.support.thread_ranks import as_ranks
from tests.support.toy_engine import run_to_end, tokens_of
from tests.support.triton_process import TritonPrograms

SIZES = [(2, 2), (4, 4), (8, 8), (8, 2)]
"""Ranks, and how many of them share a cache."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("striped"), random_model(n_layer=2))


def config_of(checkpoint: Path, size: int = 1, stripes: int = 1, **options: object) -> EngineConfig:
    return EngineConfig(
        model=str(checkpoint),
        tensor_parallel_size=size,
        decode_context_parallel_size=stripes,
        **{"dtype": "float32", "device": "cpu", "num_threads": 1, "num_kv_blocks": 40, **options},
    )


def runner_of(config: EngineConfig, group: TensorParallel) -> Runner:
    return Runner(config, group, torch.device("cpu"))


BLOCKS = np.array([[9, 3, 4, 0, 7, 1, 5, 2, 8, 6], [19, 13, 14, 10, 17, 11, 15, 12, 18, 16]])
STEPS = [[(0, 1), (0, 1)], [(1, 70), (1, 2)], [(70, 71), (2, 9)], [(71, 150), (9, 10)]]
"""Of two sequences: decodes, prompts and chunks that begin inside blocks."""


def logits_of(runner: Runner) -> torch.Tensor | None:
    """Of every token of both sequences; None where they go to another rank."""
    ids = np.random.default_rng(5).integers(0, runner.model.vocab_size, (2, 150))
    got = []
    for step in STEPS:
        order = sorted(range(2), key=lambda s: step[s][1] - step[s][0] > 1)
        spans = [(s, np.arange(*step[s])) for s in order]
        lens = np.array([len(positions) for _, positions in spans])
        batch = Batch(
            tokens=np.concatenate([ids[s, positions] for s, positions in spans]),
            positions=np.concatenate([positions for _, positions in spans]),
            slots=np.concatenate([BLOCKS[s, p // 16] * 16 + p % 16 for s, p in spans]),
            query_lens=lens,
            context_lens=np.array([step[s][1] for s in order]),
            block_tables=BLOCKS[order],
            logit_rows=np.arange(lens.sum()),
            num_decodes=int((lens == 1).sum()),
        )
        logits = runner.run(batch)
        got.append(None if logits is None else logits.clone())
    return None if got[0] is None else torch.cat([part for part in got if part is not None])


@pytest.mark.parametrize(("size", "stripes"), SIZES)
def test_logits(checkpoint: Path, size: int, stripes: int) -> None:
    alone = logits_of(runner_of(config_of(checkpoint), TensorParallel()))
    config = config_of(checkpoint, size, stripes)
    found = as_ranks(size, stripes, lambda rank: logits_of(runner_of(config, rank)))
    assert found[1:] == [None] * (size - 1)
    assert alone is not None
    assert found[0] is not None
    torch.testing.assert_close(found[0], alone, rtol=1e-4, atol=1e-4)


def requests() -> list[Request]:
    """Prompts that share a prefix, repeat themselves (so that drafts are made), and end within and with blocks."""
    rng = np.random.default_rng(3)
    stem = rng.integers(1, 200, 40).tolist()
    prompts = [stem[:n] + rng.integers(1, 200, 5).tolist() for n in (1, 11, 16, 40, 40)]
    prompts += [stem[:8] * 6, rng.integers(1, 200, 130).tolist()]
    params = SamplingParams(max_tokens=10, temperature=0, ignore_eos=True)
    return [Request(str(n), prompt, params) for n, prompt in enumerate(prompts)]


def texts_of(engine: Engine, asked: list[Request]) -> list[list[list[int]]]:
    """Twice: the second time from the cache."""
    texts = []
    for _ in range(2):
        for request in asked:
            engine.add(request)
        outputs = run_to_end(engine)
        texts.append([tokens_of(outputs[request.request_id]) for request in asked])
    return texts


def served(
    config: EngineConfig,
    group: TensorParallel,
    asked: list[Request] | None = None,
    prepare: Callable[[Runner], None] = lambda _: None,
) -> list[list[list[int]]] | None:
    """What rank 0's engine writes; the others follow it."""
    runner = runner_of(config, group)
    prepare(runner)
    if not group.is_first:
        run_worker(runner)
        return None
    try:
        engine = Engine(
            Executor(runner),
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            enable_prefix_caching=config.enable_prefix_caching,
            speculative_tokens=config.speculative_tokens or 0,
            async_scheduling=bool(config.async_scheduling),
        )
        return texts_of(engine, asked or requests())
    finally:
        group.close()


@pytest.mark.parametrize(
    ("size", "stripes", "options"),
    [
        (2, 2, {"speculative_tokens": 6}),
        (4, 2, {"async_scheduling": True, "max_num_batched_tokens": 32}),
        (8, 8, {"max_num_seqs": 3, "max_num_batched_tokens": 16, "num_kv_blocks": 20}),
    ],
)
def test_greedy_texts(checkpoint: Path, size: int, stripes: int, options: dict[str, int]) -> None:
    alone = served(config_of(checkpoint, **options), TensorParallel())
    config = config_of(checkpoint, size, stripes, **options)
    found = as_ranks(size, stripes, lambda rank: served(config, rank))
    assert alone is not None
    assert found == [alone, *[None] * (size - 1)]
    assert alone[0] == alone[1]


@pytest.mark.parametrize(("size", "stripes", "dtype"), [(2, 2, "bfloat16"), (4, 2, "float32")])
async def test_as_processes(checkpoint: Path, size: int, stripes: int, dtype: str) -> None:
    config = config_of(checkpoint, size, stripes, dtype=dtype, kv_cache_memory=1 << 20, num_kv_blocks=None)
    texts = served(config_of(checkpoint), TensorParallel())
    with RankGroup(config) as group:
        async with group.client() as client:
            outputs = await asyncio.gather(*(collect(client, request) for request in requests()))
        assert group.wait_ended() == [0] * size
    found = [tokens_of(output) for output in outputs]
    assert texts is not None
    if dtype == "float32":
        assert found == texts[0]
    value = 4 if dtype == "float32" else 2
    token = 2 * 2 * 8 * value  # keys and values of two layers' one head of 8
    for report in group.reports:
        assert report["num_kv_blocks"] == (1 << 20) // (16 // stripes * token)
        assert report["kv_cache_bytes"] - (1 << 20) <= 16 * token
        assert report["block_size"] == 16


@pytest.mark.parametrize(
    ("size", "options", "reason"),
    [
        (4, {"decode_context_parallel_size": 3}, "does not divide tensor_parallel_size=4"),
        (1, {"decode_context_parallel_size": 2}, "does not divide tensor_parallel_size=1"),
        (8, {"decode_context_parallel_size": 8, "block_size": 12}, "does not divide block_size=12"),
    ],
)
def test_what_cannot_be_shared_is_refused(size: int, options: dict[str, int], reason: str) -> None:
    config = EngineConfig(model="m", tensor_parallel_size=size, **options)
    with pytest.raises(ConfigError, match=reason):
        config.check_ranks()


def test_many_heads_are_split_already() -> None:
    shape = {"vocab_size": 64, "n_positions": 64, "n_embd": 64, "n_head": 4, "n_layer": 1, "n_inner": 64}
    config = EngineConfig(model="m", tensor_parallel_size=2, decode_context_parallel_size=2)
    config.check_ranks(ModelConfig(**shape))
    with pytest.raises(ConfigError, match="this one has 4"):
        config.check_ranks(ModelConfig(**shape, multi_query=False))


TRITON = """
import json, sys
from model.backends.cuda import CudaBackend
from model.network.parallel import TensorParallel
from model.request import Request, SamplingParams
from tests.model.test_striped_cache import config_of, served
from tests.support.thread_ranks import as_ranks

replayed = []

def replay_eagerly(run):
    return lambda: replayed.append(1) or run()

def prepare(runner):
    assert isinstance(runner.backend, CudaBackend)
    runner.num_kv_blocks -= 1  # the last block is the one that belongs to nobody
    if options["async_scheduling"]:
        runner.backend.record_decodes(runner.cache, runner.drawn, runner.max_model_len, replay_eagerly)
        assert runner.backend.replays
    runner.cache[:, :, -1] = float("nan")
    replayed.clear()

params = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)
asked = [Request(str(n), [7, 8, 9, 7, 5] * n, params) for n in (1, 2, 4)]  # of which drafts are made
plain = served(config_of(sys.argv[1]), TensorParallel(), asked)
options = {"attention": "triton", "max_num_seqs": 3, "max_num_batched_tokens": 24, "num_kv_blocks": 13}
for size, recorded in ((4, False), (2, True)):
    options.update(async_scheduling=recorded, speculative_tokens=3 if recorded else 0)
    config = config_of(sys.argv[1], size, size, **options)
    found = as_ranks(size, size, lambda rank: served(config, rank, asked, prepare))
    print(json.dumps([found[0] == plain, len(replayed)]))
"""


def test_with_our_kernels_and_recorded_steps(tmp_path: Path, triton_programs: TritonPrograms) -> None:
    pytest.importorskip("triton", reason="Triton has no build for this machine")
    model = random_model(n_embd=64, n_head=4, n_layer=1, n_inner=64, n_positions=64)
    directory = write_checkpoint(tmp_path / "model", model)
    (eager, none), (recorded, replayed) = triton_programs.run(TRITON, str(directory), interpret=True)
    assert eager
    assert recorded
    assert none == 0 < replayed
