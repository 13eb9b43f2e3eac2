"""Latency and throughput of a tiny checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import build_parser, main
from benchmarks.engine.in_process import Bench, drive
from benchmarks.engine.throughput import lengths
from model.scheduling.costs import cache_read, head_flops, prefill_flops, token_flops
from tests.support.checkpoints import TINY

ENGINE = ("--dtype", "float32", "--device", "cpu", "--num-threads", "1", "--copy-mib", "1", "--matmul-size", "64")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.checkpoints import random_model, write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("bench") / "tiny", random_model())


def test_latency(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "latency.json"
    shape = ("--input-len", "20", "--output-len", "6", "--batch-size", "3", "--num-iters", "3")
    assert main(["latency", "--model", str(tiny), *shape, *ENGINE, "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    metrics = found["metrics"]
    assert len(found["samples"]["ttft"]) == 9
    assert len(found["samples"]["itl"]) == 9 * 5
    assert metrics["avg_latency"] > 0
    assert metrics["p10_latency"] <= metrics["p50_latency"] <= metrics["p99_latency"]
    for name in ("prefill_tokens_per_s", "decode_tokens_per_s", "prefill_gflops", "decode_gbytes_per_s"):
        assert metrics[name] > 0
    assert metrics["decode_percent_of_copy"] > 0
    assert metrics["prefill_percent_of_matmul"] > 0
    assert str(tiny) not in output.read_text()
    assert "decode_percent_of_copy" in capsys.readouterr().out


def test_throughput(tiny: Path) -> None:
    shape = ("--num-prompts", "6", "--input-len", "20", "--output-len", "8", "--range-ratio", "0.5", "--no-limits")
    options = build_parser().parse_args(["throughput", "--model", str(tiny), *shape, *ENGINE])
    metrics = options.run(options).metrics
    assert metrics["num_requests"] == metrics["completed"] == 6
    assert metrics["total_num_tokens"] == metrics["total_input_tokens"] + metrics["total_output_tokens"]
    assert metrics["tokens_per_second"] == pytest.approx(metrics["total_num_tokens"] / metrics["elapsed_time"])
    assert "percent_of_copy" not in metrics


def test_a_shape_needs_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import shapes

    monkeypatch.setattr(
        shapes, "shape_config", lambda shape: {"model_type": "gpt_bigcode", "torch_dtype": "float32", **TINY}
    )
    options = build_parser().parse_args(["latency", "--shape", "164m", "--num-iters", "1", "--no-limits", *ENGINE])
    assert options.run(options).metrics["decode_tokens_per_s"] > 0


def test_the_work_of_a_run_is_counted(tiny: Path) -> None:
    options = build_parser().parse_args(["latency", "--model", str(tiny), "--max-num-batched-tokens", "64", *ENGINE])
    with Bench(options) as bench:
        trace = drive(bench.engine, bench.prompts([10, 10], 0), [4, 4])
        accounts = bench.accounts
        model, weights = bench.model, bench.accounts.weights_read
        prefill, decode, whole = (count(trace) for count in (accounts.prefill, accounts.decode, accounts.whole))
    assert prefill.tokens == 20
    assert prefill.flops == 2 * prefill_flops(model, 10)
    assert decode.tokens == 6
    assert decode.flops == 2 * sum(token_flops(model, n) + head_flops(model) for n in (11, 12, 13))
    assert decode.bytes_read == 3 * weights + 2 * cache_read(model, [11, 12, 13], 4)
    assert whole.tokens == 28
    assert prefill.seconds + decode.seconds == pytest.approx(whole.seconds)


def test_a_prompt_that_does_not_fit_is_an_error(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["latency", "--model", str(tiny), "--input-len", "300", *ENGINE]) == 1
    assert "refused" in capsys.readouterr().err
    assert main(["latency", "--model", str(tiny / "nowhere"), *ENGINE]) in (1, 2)


def test_lengths() -> None:
    import numpy as np

    found = lengths(100, 0.5, 500, np.random.default_rng(0))
    assert min(found) >= 50
    assert max(found) <= 150
    assert set(lengths(7, 0.0, 3, np.random.default_rng(0))) == {7}
    with pytest.raises(ValueError, match="range-ratio"):
        lengths(7, 1.0, 3, np.random.default_rng(0))


def test_metrics_overhead_is_measured(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.engine.metrics_overhead.REPEATS", 20)
    output = tmp_path / "overhead.json"
    options = ["--model", str(tiny), "--input-len", "8", "--output-len", "8", "--num-iters", "1", *ENGINE]
    assert main(["metrics-overhead", *options, "--output", str(output)]) == 0
    metrics = json.loads(output.read_text())["metrics"]
    parts = metrics["engine_us_a_step"] + metrics["replica_us_a_step"] + metrics["statistics_us_a_step"]
    assert metrics["all_percent_of_step"] == pytest.approx(parts / metrics["step_cpu_ms"] / 10)
    assert 0 < metrics["engine_percent_of_step"] < metrics["all_percent_of_step"]
