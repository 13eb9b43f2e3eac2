"""What `starcoder plan` computes is what ranks load and allocate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deployments.command import cli
from model.checkpoint.family import FAMILY, known_shape
from model.checkpoint.memory import DRIVER_BYTES, activation_bytes, block_bytes, parameter_bytes, plan
from model.config import ConfigError, EngineConfig, ModelConfig
from model.network.parallel import TensorParallel
from model.runner import Runner
from model.scheduling.costs import matrix_parameters
from tests.support.checkpoints import random_model, write_checkpoint
from tests.support.ranks import LoneRank

GIB = 1 << 30


@pytest.fixture(scope="module", params=["multi-query, tied", "multi-head", "head of its own"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = {
        "multi-query, tied": {},
        "multi-head": {"multi_query": False},
        "head of its own": {"tie_word_embeddings": False},
    }[request.param]
    return write_checkpoint(tmp_path_factory.mktemp("shape"), random_model(**shape))


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2)])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_rank_holds_what_was_computed(checkpoint: Path, size: int, dtype: str, width: int) -> None:
    model = ModelConfig.from_checkpoint(checkpoint)
    config = EngineConfig(
        model=str(checkpoint),
        dtype=dtype,
        device="cpu",
        cpu_kernels="torch",  # as on a GPU, of which plans are made: nothing is filled up
        tensor_parallel_size=size,
        num_kv_blocks=40,
        block_size=8,
    )
    for rank in range(size):
        # Loading needs no other rank but to agree on the kernels: only steps communicate.
        runner = Runner(config, LoneRank(rank, size), torch.device("cpu"))
        assert runner.report.parameter_bytes == parameter_bytes(model, rank, size, width)
        assert runner.report.kv_cache_bytes == 40 * block_bytes(model, size, 8, width)
        assert runner.cache.untyped_storage().nbytes() == runner.report.kv_cache_bytes


@pytest.mark.parametrize(("size", "stripes"), [(2, 2), (4, 4), (4, 2)])
def test_a_striped_cache_holds_so_many_times_as_many_tokens(tmp_path: Path, size: int, stripes: int) -> None:
    checkpoint = write_checkpoint(tmp_path / "model", random_model())
    model = ModelConfig.from_checkpoint(checkpoint)
    config = EngineConfig(
        model=str(checkpoint),
        dtype="float32",
        device="cpu",
        tensor_parallel_size=size,
        kv_cache_memory=1 << 20,
    )
    striped = config.model_copy(update={"decode_context_parallel_size": stripes})
    ranks = [Runner(striped, LoneRank(rank, size, stripes), torch.device("cpu")) for rank in range(size)]
    each = block_bytes(model, size, 16, 4, stripes=stripes)
    assert each * stripes == block_bytes(model, size, 16, 4)
    for rank in ranks:
        assert rank.num_kv_blocks == (1 << 20) // each
        # one block more, for what others keep
        assert rank.report.kv_cache_bytes == rank.cache.untyped_storage().nbytes() == (rank.num_kv_blocks + 1) * each
    whole, parts = (plan(model, c, GIB * 4, 4) for c in (config, striped))
    assert parts.cache_tokens - stripes * whole.cache_tokens in range(stripes * 16)
    assert parts.block_bytes == each


@pytest.mark.parametrize("size", [1, 2, 8])
def test_what_ranks_add_up_in_is_set_aside(size: int) -> None:
    model = known_shape("starcoder")
    assert model is not None
    config = EngineConfig(model="starcoder", tensor_parallel_size=size)
    fused = config.model_copy(update={"all_reduce": "fused"})
    less, more = (plan(model, c, 80 * GIB, 2) for c in (fused, config))
    rows = {1: 0, 2: 64, 8: 24}[size]
    signals = 4 * rows * size
    assert more.cache - less.cache == less.activations - more.activations == 2 * rows * 6144 * 2 + signals


def test_a_cache_is_no_larger_than_the_machine(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "model", random_model())
    config = EngineConfig(model=str(checkpoint), dtype="float32", device="cpu", kv_cache_memory=1 << 60)
    with pytest.raises(ConfigError, match=r"a cache of 1,152,\S+ bytes is more than this machine's memory"):
        Runner(config, LoneRank(0, 1), torch.device("cpu"))


@pytest.mark.parametrize("name", FAMILY)
def test_one_rank_holds_the_whole_model(name: str) -> None:
    model = FAMILY[name]
    assert parameter_bytes(model, 0, 1, 2) == 2 * model.num_parameters
    assert block_bytes(model, 1, 1, 2) == model.kv_bytes_per_token(2)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("bigcode/starcoder", 15.52),
        ("starcoderplus", 15.52),
        ("bigcode/starcoderbase-7b", 7.3),
        ("bigcode/starcoderbase-3b", 3.0),
        ("bigcode/starcoderbase-1b", 1.14),
        ("bigcode/gpt_bigcode-santacoder", 1.12),
        ("bigcode/tiny_starcoder_py", 0.164),
    ],
)
def test_the_family_has_the_published_sizes(name: str, billions: float) -> None:
    shape = known_shape(name)
    assert shape is not None
    assert shape.num_parameters / 1e9 == pytest.approx(billions, rel=0.03)


def test_other_names_are_not_the_family() -> None:
    assert known_shape("somebody/starcoder") is None
    assert known_shape("starcoder2-3b") is None


def test_a_plan_divides_the_memory_without_a_rest() -> None:
    model = FAMILY["starcoder"]
    config = EngineConfig(model="starcoder", tensor_parallel_size=4, gpu_memory_utilization=0.9)
    division = plan(model, config, 24 * GIB, 2)
    used = division.parameters + division.activations + division.cache + DRIVER_BYTES
    assert used == int(24 * GIB * 0.9)
    assert division.activations == activation_bytes(model, 4, config, 2)
    assert division.cache - 20_480 * 16 < division.cache_tokens * 20_480 <= division.cache
    assert division.fits
    assert division.longest_sequences == division.cache_tokens / 8192


def test_the_largest_model_does_not_fit_one_small_gpu() -> None:
    division = plan(FAMILY["starcoder"], EngineConfig(model="starcoder"), 24 * GIB, 2)
    assert not division.fits
    assert division.cache < 0
    assert division.cache_tokens == 0


def test_a_size_that_does_not_divide_the_heads_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not divide"):
        parameter_bytes(FAMILY["starcoderbase-3b"], 0, 4, 2)


@pytest.mark.parametrize(
    ("options", "size", "tokens", "rows"),
    [
        ({}, 1, 2048 + 512, 64 + 64 + 256),
        ({}, 4, 2048 + 512, 64 + 64 + 256),
        ({"cuda_graphs": False}, 1, 2048, 64 + 64 + 256),
        ({"max_num_batched_tokens": 100, "max_num_seqs": 8}, 1, 100 + 100, 100),
        ({"max_num_seqs": 8, "speculative_tokens": 0}, 2, 2048 + 512, 8 + 256),
        ({"max_num_batched_tokens": 16, "max_num_seqs": 20}, 2, 20 + 20, 20),
    ],
    ids=str,
)
def test_a_full_step_has_four_rows_of_the_widest_layer_a_token_and_its_logits(
    options: dict[str, Any], size: int, tokens: int, rows: int
) -> None:
    """Of a recorded step a second time; of 64 rows of logits at once what a draw works with."""
    model = FAMILY["starcoder"]
    widest = 4 * 6144  # a rank's share of the inner width is less than queries, keys, values and what is added to
    logits = 49_152 * (rows * 10 + min(rows, 64) * 52)
    for width in (2, 4):
        found = activation_bytes(model, size, EngineConfig(model="starcoder", **options), width)
        assert found == 4 * tokens * widest * width + logits
    wide = model.model_copy(update={"n_inner": 12 * 6144})
    found = activation_bytes(wide, size, EngineConfig(model="starcoder", **options), 2)
    assert found == 4 * tokens * max(12 // size, 4) * 6144 * 2 + logits


@pytest.mark.parametrize("drafts", [False, True])
def test_a_gpu_engine_budgets_as_the_plan_does(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drafts: bool
) -> None:
    """The engine asks the driver what is free; with the allowance taken as used, both come to the same blocks."""
    total = 2 * GIB
    config = EngineConfig(model=str(checkpoint), dtype="float32", device="cpu", cpu_kernels="torch", num_kv_blocks=400)
    draft = None
    if drafts:
        small = write_checkpoint(tmp_path / "draft", random_model(n_layer=1))
        config, draft = config.model_copy(update={"draft_model": str(small)}), ModelConfig.from_checkpoint(small)
    runner = Runner(config, TensorParallel(), torch.device("cpu"))
    free = total - DRIVER_BYTES - runner.report.parameter_bytes
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, total))
    division = plan(runner.model, config, total, 4, draft)
    assert runner._gpu_cache_bytes(config) == pytest.approx(division.cache, abs=1)
    assert division.block_bytes == sum(shard.block_bytes for shard in runner._shards)
    assert runner.report.kv_cache_bytes == 400 * division.block_bytes


def test_the_command_plans_a_draft_model(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "starcoder", "--gpu-memory", "40GiB", "--tensor-parallel-size", "1"]
    rows = []
    for draft in ((), ("--draft-model", "starcoderbase-1b")):
        assert cli.main(["plan", *arguments, *draft]) == 0
        out = capsys.readouterr().out
        rows.append(next(line for line in out.splitlines() if line.startswith("starcoder ")).split())
    assert "The first GPU has starcoderbase-1b" in out
    models = FAMILY["starcoder"], FAMILY["starcoderbase-1b"]
    weights = sum(parameter_bytes(model, 0, 1, 2) for model in models)
    assert f"{weights / GIB:.2f}" in rows[1]
    assert f"{sum(model.kv_bytes_per_token(2) for model in models):,}" in rows[1]
    tokens = [int(row[-3 if row[-1] == "fit" else -2].replace(",", "")) for row in rows]
    assert 0.2 * tokens[0] < tokens[1] < 0.7 * tokens[0]
    people = ["--developers", "10", "--draft-model", "starcoderbase-1b"]
    assert cli.main(["plan", "--model", "starcoder", "--gpu", "h100", *people]) == 2
    assert "without a draft model" in capsys.readouterr().err


def test_of_the_family_those_are_planned_that_the_draft_model_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--gpu-memory", "80GiB", "--draft-model", "starcoderbase-1b"]) == 0
    out = capsys.readouterr().out
    planned = {line.split()[0] for line in out.splitlines() if line.split()[:1] and line.split()[0] in FAMILY}
    assert planned == set(FAMILY) - {"santacoder"}
    assert "It cannot draft for santacoder" in out
    assert (
        cli.main(["plan", "--gpu-memory", "80GiB", "--draft-model", "starcoderbase-1b", "--model", "santacoder"]) == 2
    )
    assert "has vocab_size=49152" in capsys.readouterr().err


def test_the_command_prints_the_plan_without_a_hub(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.checkpoint.hub._download", None)
    arguments = ["--model", "bigcode/starcoder", "--gpu-memory", "24GiB", "--tensor-parallel-size", "4"]
    assert cli.main(["plan", *arguments]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("bigcode/starcoder "))
    config = EngineConfig(model="starcoder", tensor_parallel_size=4)
    division = plan(FAMILY["starcoder"], config, 24 * GIB, 2)
    assert f"{division.cache_tokens:,}" in row
    assert f"{division.parameters / GIB:.2f} GiB" in row


def test_the_command_plans_a_striped_cache(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "starcoder", "--gpu-memory", "24GiB", "--decode-context-parallel-size", "4"]
    assert cli.main(["plan", *arguments]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("starcoder ")]
    assert [row[1] for row in rows] == ["4", "8"]
    config = EngineConfig(model="starcoder", tensor_parallel_size=8, decode_context_parallel_size=4)
    assert f"{plan(FAMILY['starcoder'], config, 24 * GIB, 2).cache_tokens:,}" in rows[1]
    assert cli.main(["plan", *arguments, "--tensor-parallel-size", "2"]) == 2


def test_the_command_plans_a_checkpoint_that_is_here(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--model", str(checkpoint), "--gpu-memory", "8GB", "--dtype", "float32"]) == 0
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith(str(checkpoint))]) == 4


def test_the_command_fails_where_nothing_fits_or_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--model", "starcoder", "--gpu-memory", "24GiB", "--tensor-parallel-size", "1"]) == 1
    assert "does not fit" in capsys.readouterr().out
    assert cli.main(["plan", "--model", "nobody/nothing", "--gpu-memory", "24GiB"]) == 2
    assert "starcoderbase-1b" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["plan", "--gpu-memory", "much"])
    assert "is no size such as 24GiB" in capsys.readouterr().err


def test_a_plan_with_8_bits_counts_a_tied_heads_copy_and_the_scratch() -> None:
    model = FAMILY["starcoder"]
    plain = EngineConfig(model="starcoder", tensor_parallel_size=1)
    config = plain.model_copy(update={"quantization": "int8"})
    division = plan(model, config, 24 * GIB, 2)
    assert division.fits
    assert not plan(model, plain, 24 * GIB, 2).fits
    assert division.activations == activation_bytes(model, 1, config, 2) + 2 * model.n_embd * model.n_inner
    # a byte for each weight of the blocks and the head; the tables and what is small stay
    assert division.parameters == pytest.approx(
        matrix_parameters(model) + 3 * model.vocab_size * model.n_embd, rel=0.01
    )


def test_the_command_plans_8_bits(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "starcoder", "--gpu-memory", "24GiB", "--tensor-parallel-size", "1"]
    assert cli.main(["plan", *arguments, "--quantization", "fp8"]) == 0
    out = capsys.readouterr().out
    assert "15.07 GiB" in out
    assert "linear layers in fp8" in out
