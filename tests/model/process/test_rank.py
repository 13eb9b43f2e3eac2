"""One rank in this process: what its engine is made of, and what it tells of itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from model.config import ConfigError, EngineConfig
from model.drafter import DraftModel
from model.limits import SPECULATIVE_TOKENS
from model.network.stripes import Stripe
from model.process import rank as rank_module
from model.process.client import EngineClient
from model.process.rank import Rank
from model.request import Request, SamplingParams
from model.runner import LoadReport
from tests.support.checkpoints import TINY, random_model, write_checkpoint
from tests.support.fresh_process import run_fresh
from tests.support.ranks import LoneRank, collect


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), random_model())


@pytest.fixture(autouse=True)
def threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def config(checkpoint: Path, **options: Any) -> EngineConfig:
    sizes = {"device": "cpu", "dtype": "float32", "cpu_kernels": "torch", "num_kv_blocks": 40, "num_threads": 1}
    return EngineConfig(model=str(checkpoint), **sizes | options)


def test_a_rank_loads_and_steps_without_pytorchs_compiler(checkpoint: Path) -> None:
    """Which PyTorch loads by itself for some functions, such as drawing initial weights that have no storage."""
    script = """
import json, sys
from model import EngineConfig, Rank, Request, SamplingParams
rank = Rank(EngineConfig.model_validate_json(sys.argv[1]), 0, 1)
rank.load()
engine = rank.engine()
engine.add(Request("a", [1, 2, 3], SamplingParams(max_tokens=2, ignore_eos=True)))
tokens = [token for _ in range(4) for output in engine.step() for token in output.token_ids]
print(json.dumps([len(tokens), sorted({"torch._dynamo", "torch._inductor", "sympy", "triton"} & set(sys.modules))]))
"""
    assert run_fresh(script, config(checkpoint).model_dump_json()) == [2, []]


def test_what_a_rank_holds_is_in_its_report(checkpoint: Path) -> None:
    rank = Rank(config(checkpoint, block_size=8, max_model_len=100))
    assert rank.listen() == "", "nobody else comes"
    shares: list[float] = []
    report = msgspec.convert(rank.load("", shares.append), LoadReport)
    assert report == rank.reports[0]
    assert len(rank.reports) == 1
    assert (report.rank, report.device, report.dtype) == (0, "cpu", "float32")
    assert (report.num_kv_blocks, report.block_size, report.max_model_len) == (40, 8, 100)
    parameters = random_model().num_parameters()
    assert report.parameter_bytes == 4 * parameters
    head_dim = TINY["n_embd"] // TINY["n_head"]
    assert report.kv_cache_bytes == 40 * 8 * 2 * TINY["n_layer"] * head_dim * 4
    assert report.load_seconds > 0
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    costs = rank.costs()
    assert (costs.parameter_bytes, costs.value_bytes, costs.ranks, costs.stripes) == (4 * parameters, 4, 1, 1)
    assert not costs.head_is_copied
    assert costs.model == rank.engine().executor.runner.model


@pytest.mark.parametrize(
    ("options", "speculation", "overlap"),
    [
        ({}, SPECULATIVE_TOKENS, False),  # a CPU waits for its steps
        ({"speculative_tokens": 0, "async_scheduling": True}, 0, True),
        ({"speculative_tokens": 3, "async_scheduling": False}, 3, False),
    ],
)
def test_an_engine_is_what_the_configuration_says(
    options: dict[str, Any], speculation: int, overlap: bool, checkpoint: Path
) -> None:
    sizes = {"max_num_seqs": 5, "max_num_batched_tokens": 70, "target_inter_token_latency_s": 0.25, "seed": 3}
    rank = Rank(config(checkpoint, enable_prefix_caching=False, **sizes, **options))
    rank.load()
    engine = rank.engine()
    assert (engine.limits.sequences, engine.limits.tokens) == (5, 70)
    assert engine.pace is not None
    assert engine.pace.target == 0.25
    assert not engine.pool.caching
    assert (engine._speculative_tokens, engine._async) == (speculation, overlap)
    assert engine._costs == rank.costs()
    assert rank.engine()._seeds.random() == engine._seeds.random(), "one seed"
    assert Rank(config(checkpoint)).config.seed is None


@pytest.mark.parametrize(
    ("asked", "cores", "size", "threads"), [(3, 8, 1, 3), (None, 8, 2, 4), (None, 1, 4, 1), (None, None, 1, 1)]
)
def test_ranks_share_the_cores(
    asked: int | None, cores: int | None, size: int, threads: int, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(rank_module.torch, "set_num_threads", given.append)
    monkeypatch.setattr(rank_module.os, "cpu_count", lambda: cores)
    rank = Rank(config(checkpoint, num_threads=asked), size=size)
    rank.group = Told(0, size, [])
    monkeypatch.setattr(rank, "_agree_on_cache", lambda runner: None)
    rank.load()
    assert given == [threads]


def test_an_engine_may_have_fewer_blocks_and_sequences_than_its_ranks(checkpoint: Path) -> None:
    rank = Rank(config(checkpoint, max_num_seqs=5))
    rank.load()
    small = rank.engine(num_kv_blocks=12, max_num_seqs=2)
    assert (small.pool.num_blocks, small.limits.sequences) == (12, 2)
    whole = rank.engine()
    assert (whole.pool.num_blocks, whole.limits.sequences) == (40, 5), "the change was for that engine alone"


@pytest.mark.parametrize("tied", [True, False])
def test_a_draft_models_passes_cost_what_its_own_shape_says(
    tied: bool, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[DraftModel | None] = []
    monkeypatch.setattr(rank_module, "Engine", lambda executor, **options: made.append(options["draft_model"]))
    network = random_model(n_layer=1, n_embd=32, n_head=4, n_inner=64, tie_word_embeddings=tied)
    rank = Rank(config(checkpoint, draft_model=str(write_checkpoint(tmp_path / "draft", network))))
    rank.load()
    rank.engine()
    (draft,) = made
    assert draft is not None
    assert rank._runner is not None
    assert draft.network is rank._runner.draft
    assert draft.cost == pytest.approx(network.num_parameters() / random_model().num_parameters())
    tables = network.transformer.wpe.weight.numel() + (0 if tied else network.transformer.wte.weight.numel())
    assert draft.costs is not None
    assert draft.costs.weights_read == 4 * (sum(w.numel() for w in network.parameters()) - tables)
    assert draft.costs.model.n_embd == 32


class Told(LoneRank):
    """A rank whose others say what the test wants."""

    def __init__(self, rank: int, size: int, others: list[bytes]) -> None:
        super().__init__(rank, size)
        self.said: list[bytes] = []
        self._others = others

    def join(self, address: str, device: torch.device) -> None:
        self.joined = address, device

    def replies(self, timeout_s: float) -> list[bytes]:
        return self._others

    def reply(self, message: bytes) -> None:
        self.said.append(message)


@pytest.mark.parametrize(("others", "blocks"), [((60, 30), 30), ((60, 50), 40)])
def test_all_ranks_use_the_smallest_cache(others: tuple[int, ...], blocks: int, checkpoint: Path) -> None:
    second = Rank(config(checkpoint, tensor_parallel_size=2), rank=1)
    second.group = told = Told(1, 2, [])
    second.load()
    (said,) = told.said
    report = msgspec.msgpack.decode(said, type=LoadReport)
    assert (report.rank, report.num_kv_blocks) == (1, 40)

    reports = [msgspec.structs.replace(report, rank=n, num_kv_blocks=count) for n, count in enumerate(others, start=1)]
    first = Rank(config(checkpoint, tensor_parallel_size=2))
    first.group = Told(0, 2, [msgspec.msgpack.encode(one) for one in reports])
    own = first.load()
    assert own["num_kv_blocks"] == 40
    assert [one.num_kv_blocks for one in first.reports] == [40, *others]
    assert first.engine().pool.num_blocks == blocks


async def test_rank_0_serves_its_engine_and_closes_the_group(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = Rank(config(checkpoint))
    rank.load()
    closed: list[int] = []
    monkeypatch.setattr(rank.group, "close", lambda: closed.append(1))
    run = asyncio.create_task(asyncio.to_thread(rank.run, str(tmp_path / "engine")))
    client = await EngineClient.connect(str(tmp_path / "engine"), timeout_s=60)
    answer = await collect(client, Request("a", [1, 2, 3], SamplingParams(5, ignore_eos=True)))
    assert sum(len(output.token_ids) for output in answer) == 5
    assert client.stats.parameter_bytes == [rank.reports[0].parameter_bytes]
    assert not closed
    await client.shutdown()
    await run
    assert closed == [1]


def test_another_rank_follows_until_rank_0_is_gone_and_closes_the_group(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = Rank(config(checkpoint, tensor_parallel_size=2), rank=1)
    rank.group = told = Told(1, 2, [])
    rank.load()
    events: list[str] = []
    monkeypatch.setattr(told, "recv", lambda: events.append("recv"))
    monkeypatch.setattr(told, "close", lambda: events.append("close"))
    rank.run()
    assert events == ["recv", "close"]


def test_what_cannot_work_is_said_before_ranks_wait_for_each_other(checkpoint: Path) -> None:
    striped = config(checkpoint, tensor_parallel_size=3, decode_context_parallel_size=2)
    with pytest.raises(ConfigError, match="does not divide tensor_parallel_size=3"):
        Rank(striped).load("nobody is there")


@pytest.mark.parametrize("ask", [Rank.engine, Rank.costs, Rank.run])
def test_nothing_runs_before_it_is_loaded(ask: Any, checkpoint: Path) -> None:
    with pytest.raises(AssertionError, match=r"^load first$"):
        ask(Rank(config(checkpoint)))


def test_a_rank_joins_the_others_where_it_is_told_to(checkpoint: Path) -> None:
    rank = Rank(config(checkpoint), rank=1, size=2)
    rank.group = told = Told(1, 2, [])
    rank.load("where rank 0 listens")
    assert told.joined == ("where rank 0 listens", torch.device("cpu"))
    (said,) = told.said
    assert msgspec.msgpack.decode(said, type=LoadReport).parameter_bytes == rank.costs().parameter_bytes


def test_steps_of_a_rank_cost_its_share_of_weights_and_cache(checkpoint: Path) -> None:
    rank = Rank(config(checkpoint))
    rank.load()
    rank.group = told = Told(0, 4, [])
    told.stripe = Stripe(2, 0)
    costs = rank.costs()
    assert (costs.ranks, costs.stripes) == (4, 2)
    assert (costs.value_bytes, costs.model.n_layer) == (4, TINY["n_layer"])


def test_a_rank_knows_its_place_in_the_group(checkpoint: Path) -> None:
    striped = config(checkpoint, tensor_parallel_size=4, decode_context_parallel_size=2)
    group = Rank(striped, rank=3).group
    assert (group.rank, group.size, group.stripe) == (3, 4, Stripe(2, 1))
    assert Rank(striped).group.is_first
    assert Rank(striped, rank=1, size=2).group.size == 2


@pytest.mark.parametrize(
    ("asked", "device", "overlaps"),
    [(None, "cuda", True), (None, "cpu", False), (False, "cuda", False), (True, "cpu", True)],
)
def test_steps_overlap_on_a_gpu_where_nobody_says(
    asked: bool | None, device: str, overlaps: bool, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []
    monkeypatch.setattr(rank_module, "Engine", lambda executor, **options: made.append(options["async_scheduling"]))
    rank = Rank(config(checkpoint, async_scheduling=asked))
    rank.load()
    monkeypatch.setattr(rank._runner, "device", torch.device(device))
    monkeypatch.setattr(rank_module, "Executor", lambda runner: None)  # it would ask the GPU for events
    rank.engine()
    assert made == [overlaps]
