"""A second network beside the first: texts are those without it, on real networks, on one rank and on two."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint.memory import block_bytes
from model.config import ConfigError, EngineConfig, ModelConfig
from model.engine import Engine
from model.pico import CHECKPOINT, NANO
from model.process.rank import Rank
from model.request import Request, SamplingParams
from model.scheduling.draft_length import DraftLength
from model.scheduling.speculation import Speculator
from monitoring.metrics import (
    ACCEPTED_DRAFT_TOKENS,
    ACCEPTED_MODEL_DRAFT_TOKENS,
    DRAFT_TOKENS,
    MODEL_DRAFT_TOKENS,
    PREEMPTIONS,
    PREFIX_CACHE_HITS,
    READ_BYTES,
)
from tests.support.checkpoints import random_model, write_checkpoint
from tests.support.prepared_ranks import always_draft
from tests.support.ranks import RankGroup, collect
from tests.support.toy_engine import run_to_end, tokens_of
from tests.support.triton_process import TritonPrograms

LENGTH = 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("target") / "model", random_model(n_layer=2))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of another shape: narrower, flatter, many heads. It knows nothing of what the other one says."""
    model = random_model(seed=5, n_layer=1, n_embd=32, n_head=4, n_inner=64, multi_query=False, n_positions=300)
    return write_checkpoint(tmp_path_factory.mktemp("draft") / "model", model)


@pytest.fixture
def drafting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DraftLength, "share", DraftLength.share)
    monkeypatch.setattr(Speculator, "draft", Speculator.draft)
    monkeypatch.setattr(Speculator, "promises", Speculator.promises)
    always_draft()


def config_of(checkpoint: Path, draft: Path | None, **options: Any) -> EngineConfig:
    return EngineConfig(
        model=str(checkpoint),
        draft_model=None if draft is None else str(draft),
        **{
            "dtype": "float32",
            "device": "cpu",
            "num_threads": 1,
            "num_kv_blocks": 60,
            "seed": 1,
            "speculative_tokens": LENGTH if draft is not None else 0,
            **options,
        },
    )


def engine_of(config: EngineConfig) -> Engine:
    rank = Rank(config)
    rank.load()
    return rank.engine()


def requests() -> list[Request]:
    """Prompts that share a prefix; greedy and sampled; penalties, biases, least lengths, log-probabilities, stops."""
    stem = [(7 * n * n + 3) % 200 + 1 for n in range(40)]
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 0.8, "top_p": 0.95},
        {"temperature": 1.2, "top_k": 20, "logprobs": 2},
        {"temperature": 0.0, "repetition_penalty": 1.2, "frequency_penalty": 0.3},
        {"temperature": 1.0, "presence_penalty": 0.7, "logit_bias": {5: 3.0, 7: -100.0}},
        {"temperature": 0.7, "min_p": 0.05, "min_tokens": 8, "ignore_eos": False},
        {"temperature": 0.0, "prompt_logprobs": 1, "logprobs": 0},
    ]
    found = []
    for number, kind in enumerate(kinds):
        prompt = stem[: 40 - 5 * (number % 3)] + [number + 3] * (number % 4)
        params = SamplingParams(**{"max_tokens": 20, "seed": 100 + number, "ignore_eos": True, **kind})
        found.append(Request(str(number), prompt, params, barred_ids=(1, 2, 3, 4) if number % 2 else ()))
    return found


def answers(engine: Engine) -> list[Any]:
    """Twice: the second time from the cache. All that is said of each token."""
    found = []
    for _ in range(2):
        for request in requests():
            engine.add(request)
        outputs = run_to_end(engine)
        found += [
            (
                tokens_of(outputs[r.request_id]),
                [(e.token_id, [t for t, _ in e.top]) for o in outputs[r.request_id] for e in o.logprobs or []],
                outputs[r.request_id][-1].finish_reason,
            )
            for r in requests()
        ]
    return found


@pytest.mark.usefixtures("drafting")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_num_seqs": 2, "enable_prefix_caching": False},
        {"max_num_batched_tokens": 16, "max_num_seqs": 4, "num_kv_blocks": 15, "block_size": 8, "max_model_len": 100},
        {"async_scheduling": True, "block_size": 8, "num_kv_blocks": 90},
    ],
    ids=["all at once", "no prefix cache", "scarce blocks", "steps one behind the other"],
)
def test_texts_are_those_without_drafts(checkpoint: Path, small: Path, options: dict[str, Any]) -> None:
    expected = answers(engine_of(config_of(checkpoint, None, **options)))
    for draft in (checkpoint, small):
        engine = engine_of(config_of(checkpoint, draft, **options))
        assert answers(engine) == expected
        stats = engine.stats()
        drafted, accepted = stats[MODEL_DRAFT_TOKENS], stats[ACCEPTED_MODEL_DRAFT_TOKENS]
        assert (drafted, accepted) == (stats[DRAFT_TOKENS], stats[ACCEPTED_DRAFT_TOKENS])
        # one that drafts for itself is always right, through prefix hits and preemptions
        assert accepted == drafted > 100 if draft == checkpoint else 0 <= accepted < 0.3 * drafted
        assert (stats[PREEMPTIONS] > 0) == (options.get("num_kv_blocks") == 15)
        assert (stats[PREFIX_CACHE_HITS] > 0) == options.get("enable_prefix_caching", True)


async def test_the_first_of_two_ranks_has_the_draft_model_and_all_of_it(checkpoint: Path) -> None:
    expected = answers(engine_of(config_of(checkpoint, None)))[: len(requests())]
    config = config_of(checkpoint, checkpoint, tensor_parallel_size=2, num_kv_blocks=None, kv_cache_memory=1 << 20)
    with RankGroup(config, always_draft) as group:
        async with group.client() as client:
            outputs = await asyncio.gather(*(collect(client, request) for request in requests()))
            stats = client.stats
        assert group.wait_ended() == [0, 0]
    assert [tokens_of(output) for output in outputs] == [tokens for tokens, *_ in expected]
    assert stats[MODEL_DRAFT_TOKENS] > 50
    assert (
        stats[ACCEPTED_MODEL_DRAFT_TOKENS] >= 0.9 * stats[MODEL_DRAFT_TOKENS]
    )  # sums of two ranks have other last bits
    first, second = group.reports
    model = ModelConfig.from_checkpoint(checkpoint)
    assert first["draft_parameter_bytes"] == 4 * model.num_parameters
    assert second["draft_parameter_bytes"] == 0
    assert first["parameter_bytes"] - second["parameter_bytes"] > 4 * model.num_parameters - 1000
    both = block_bytes(model, 2, 16, 4) + block_bytes(model, 1, 16, 4)
    assert first["num_kv_blocks"] == (1 << 20) // both
    assert stats.kv_blocks_total == first["num_kv_blocks"] < second["num_kv_blocks"]
    assert first["kv_cache_bytes"] == first["num_kv_blocks"] * both


@pytest.mark.usefixtures("drafting")
def test_ranks_that_share_a_cache_have_a_draft_model_beside_it(checkpoint: Path, small: Path) -> None:
    """In the test of striped caches' own manner: rank 0's draft has whole blocks."""
    from model.executor import Executor, run_worker
    from model.network.parallel import TensorParallel
    from model.runner import Runner
    from tests.support.thread_ranks import as_ranks

    def texts(config: EngineConfig, group: TensorParallel) -> list[list[int]] | None:
        import torch

        from model.drafter import DraftModel

        runner = Runner(config, group, torch.device("cpu"))
        if not group.is_first:
            assert runner.draft is None
            run_worker(runner)
            return None
        try:
            draft = DraftModel(runner.draft, 0.1) if runner.draft is not None else None
            engine = Engine(Executor(runner), speculative_tokens=config.speculative_tokens or 0, draft_model=draft)
            for request in requests():
                engine.add(request)
            outputs = run_to_end(engine)
            assert draft is None or engine.stats()[MODEL_DRAFT_TOKENS] > 50
            return [tokens_of(outputs[r.request_id]) for r in requests()]
        finally:
            group.close()

    alone = texts(config_of(checkpoint, None), TensorParallel())
    striped = config_of(checkpoint, small, tensor_parallel_size=2, decode_context_parallel_size=2)
    assert as_ranks(2, 2, lambda rank: texts(striped, rank)) == [alone, None]


@pytest.mark.usefixtures("drafting")
def test_what_its_passes_read_counts(checkpoint: Path, small: Path) -> None:
    read: list[float] = []
    for draft in (None, small):
        engine = engine_of(config_of(checkpoint, draft))
        engine.add(Request("a", [1, 2, 3], SamplingParams(max_tokens=9, temperature=0, ignore_eos=True)))
        engine.step()
        read.append(engine.stats()[READ_BYTES])
        engine.step()
        read.append(engine.stats()[READ_BYTES])
    assert read[0] == read[2]
    narrow = ModelConfig.from_checkpoint(small)
    weights = 4 * (narrow.num_parameters - narrow.n_positions * narrow.n_embd)
    contexts = [4, 5, 6, 7]  # of the passes; the step itself reads four tokens' keys and values more than without
    more = sum(weights + context * narrow.kv_bytes_per_token(4) for context in contexts)
    wide = ModelConfig.from_checkpoint(checkpoint)
    assert read[3] - read[1] == more + LENGTH * wide.kv_bytes_per_token(4)


@pytest.mark.parametrize(
    ("shape", "options", "reason"),
    [
        ({}, {"speculative_tokens": 0}, "drafts nothing with speculative_tokens=0"),
        ({"vocab_size": 212}, {}, "has vocab_size=212, and the model 211"),
        ({"n_positions": 100}, {}, "a window of 100 positions, and sequences may have 256"),
        ({"n_positions": 100}, {"max_model_len": 101}, "a window of 100 positions, and sequences may have 101"),
        (
            {},
            {"num_kv_blocks": None, "kv_cache_memory": 20_000},
            r"needs 16: give the cache more memory \(65,536 bytes",
        ),
    ],
)
def test_what_cannot_draft_is_refused(
    checkpoint: Path, tmp_path: Path, shape: dict[str, int], options: dict[str, Any], reason: str
) -> None:
    draft = write_checkpoint(tmp_path / "draft", random_model(n_layer=2, **shape))
    with pytest.raises(ConfigError, match=reason):
        engine_of(config_of(checkpoint, draft, **options))


def test_a_smaller_window_is_enough_for_shorter_sequences(checkpoint: Path, tmp_path: Path) -> None:
    draft = write_checkpoint(tmp_path / "draft", random_model(n_layer=1, n_positions=100))
    assert engine_of(config_of(checkpoint, draft, max_model_len=100)).drafter is not None


def test_damaged_weights_are_told_of_the_draft_model(checkpoint: Path, tmp_path: Path) -> None:
    model = random_model(n_layer=1)
    model.transformer.ln_f.weight.data.fill_(float("nan"))
    draft = write_checkpoint(tmp_path / "draft", model)
    with pytest.raises(ConfigError, match=r"draft_model=\S+draft: the model's first logits are not finite"):
        engine_of(config_of(checkpoint, draft))
    with pytest.raises(ConfigError, match="no such directory"):
        engine_of(config_of(checkpoint, tmp_path / "none"))


def with_tokenizer(directory: Path, checkpoint: Path, change: Any = None) -> Path:
    shutil.copytree(checkpoint, directory)
    rules = json.loads((CHECKPOINT / "tokenizer.json").read_text())
    vocabulary = rules["model"]["vocab"]
    rules["model"]["vocab"] = {token: id for token, id in vocabulary.items() if id < 211}
    rules["added_tokens"] = [added for added in rules["added_tokens"] if added["id"] < 211]
    if change is not None:
        change(rules)
    (directory / "tokenizer.json").write_text(json.dumps(rules))
    return directory


def exchanged(rules: dict[str, Any]) -> None:
    vocabulary = rules["model"]["vocab"]
    by_id = {id: token for token, id in vocabulary.items()}
    vocabulary[by_id[100]], vocabulary[by_id[101]] = 101, 100


def one_more(rules: dict[str, Any]) -> None:
    rules["added_tokens"].append({**rules["added_tokens"][0], "content": "<more>", "id": 210})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (exchanged, "another tokenizer: 2 tokens differ. 100 is "),
        (one_more, "another tokenizer: 2.. tokens, and the model 2.."),
        (lambda rules: rules.pop("model"), "tokenizer.json is not a tokenizer: KeyError"),
    ],
)
def test_another_vocabulary_is_refused(checkpoint: Path, tmp_path: Path, change: Any, reason: str) -> None:
    target = with_tokenizer(tmp_path / "target", checkpoint)
    draft = with_tokenizer(tmp_path / "draft", checkpoint, change)
    with pytest.raises(ConfigError, match=reason):
        engine_of(config_of(target, draft))


def test_the_same_vocabulary_is_taken_and_one_that_is_not_there_is_not(checkpoint: Path, tmp_path: Path) -> None:
    target, draft = with_tokenizer(tmp_path / "target", checkpoint), with_tokenizer(tmp_path / "draft", checkpoint)
    assert engine_of(config_of(target, draft)).drafter is not None
    with pytest.raises(ConfigError, match=r"holds no tokenizer\.json, and the other model does"):
        engine_of(config_of(target, checkpoint))


def test_the_embedded_models_have_different_tokenizers() -> None:
    with pytest.raises(ConfigError, match="has vocab_size=4096, and the model 8192"):
        engine_of(config_of(NANO, CHECKPOINT))


@pytest.mark.usefixtures("drafting")
def test_with_our_own_kernels_a_model_that_drafts_for_itself_is_right() -> None:
    """And with weights in 8 bits, which are then both models'."""
    texts = []
    prompts = [[40, 41, 42, 43, 44, 45] * 4, [300, 301, 302], list(range(60, 100))]
    for draft, quantization in ((None, "none"), (CHECKPOINT, "none"), (CHECKPOINT, "int8")):
        try:
            config = config_of(
                CHECKPOINT, draft, dtype="auto", cpu_kernels="native", quantization=quantization, num_kv_blocks=200
            )
            engine = engine_of(config)
        except ConfigError as error:
            pytest.skip(str(error))
        for number, prompt in enumerate(prompts):
            params = SamplingParams(max_tokens=24, temperature=0.8, seed=number, ignore_eos=True)
            engine.add(Request(str(number), prompt, params))
        outputs = run_to_end(engine)
        texts.append([tokens_of(outputs[str(n)]) for n in range(len(prompts))])
        if draft is not None:
            stats = engine.stats()
            assert stats[ACCEPTED_MODEL_DRAFT_TOKENS] == stats[MODEL_DRAFT_TOKENS] > 40
    assert texts[0] == texts[1]


TRITON = """
import json, sys
from model.backends.cuda import CudaBackend
from model.process.rank import Rank
from model.request import Request, SamplingParams
from monitoring.metrics import ACCEPTED_MODEL_DRAFT_TOKENS, MODEL_DRAFT_TOKENS
from tests.model.test_draft_model import config_of
from tests.support.prepared_ranks import always_draft
from tests.support.toy_engine import run_to_end, tokens_of
from tests.support.triton_process import TritonPrograms

always_draft()
replayed = []

def replay_eagerly(run):
    return lambda: replayed.append(1) or run()

texts, drafts = [], []
for draft in (None, sys.argv[1]):
    options = {"attention": "triton", "max_num_seqs": 2, "max_num_batched_tokens": 24, "num_kv_blocks": 10}
    rank = Rank(config_of(sys.argv[1], draft, **options, **({"max_model_len": 48})))
    rank.load()
    runner = rank._runner
    runner.num_kv_blocks -= 1  # the last block is the one that belongs to nobody
    for shard in runner._shards:
        assert isinstance(shard.backend, CudaBackend)
        if shard is runner.draft:
            shard.backend.record_decodes(shard.cache, shard.drawn, 48, replay_eagerly)
            assert shard.backend.replays
        shard.cache[:, :, -1] = float("nan")
    replayed.clear()
    engine = rank.engine()
    for n, temperature in enumerate((0.0, 0.9)):
        params = SamplingParams(max_tokens=7, temperature=temperature, seed=n, ignore_eos=True)
        engine.add(Request(str(n), [7, 8, 9, 7, 5 + n], params))
    outputs = run_to_end(engine)
    texts.append([tokens_of(outputs[str(n)]) for n in range(2)])
    drafts.append([engine.stats()[c] for c in (MODEL_DRAFT_TOKENS, ACCEPTED_MODEL_DRAFT_TOKENS)])
print(json.dumps([texts[0] == texts[1], drafts, len(replayed)]))
"""


def test_with_our_kernels_and_recorded_steps(tmp_path: Path, triton_programs: TritonPrograms) -> None:
    """Recorded as the CUDA backend records them, with a stand-in for the graphs: every pass is replayed."""
    pytest.importorskip("triton", reason="Triton has no build for this machine")
    model = random_model(n_embd=64, n_head=4, n_layer=1, n_inner=64, n_positions=64)
    directory = write_checkpoint(tmp_path / "model", model)
    [[same, drafts, replayed]] = triton_programs.run(TRITON, str(directory), interpret=True)
    assert same
    assert drafts[0] == [0, 0]
    assert drafts[1][0] == drafts[1][1] > 5
    assert replayed > 3
