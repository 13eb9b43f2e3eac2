"""The command for a GPU: one that fails costs its row only, and the sums of the others are kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import build_parser, main
from benchmarks.engine import gpu


def test_every_command_is_one_that_the_parser_knows() -> None:
    for attention in ("torch", "triton"):
        for quantization in ("none", "int8", "fp8"):
            for measurement in gpu.measurements(attention, quantization):
                options = build_parser().parse_args([*measurement.command, "--shape", "15b", "--device", "cuda"])
                assert options.attention == attention
                assert options.quantization == quantization
    for measurement in (*gpu.comparisons("triton"), gpu.start(), gpu.start("int8")):
        build_parser().parse_args([*measurement.command, "--shape", "15b", "--device", "cuda"])
    switched_off = [build_parser().parse_args([*m.command, "--shape", "15b"]) for m in gpu.comparisons("triton")]
    assert [(o.cuda_graphs, o.async_scheduling) for o in switched_off] == [(False, None)] * 2 + [(True, False)] * 2
    for measurement in gpu.products("fp8"):
        shape = ["--shape", "15b"] if measurement.has_shape else []
        options = build_parser().parse_args([*measurement.command, *shape, "--device", "cuda"])
        assert options.quantization == ["fp8"]
    assert all((gpu.ROOT / test).is_file() for test in gpu.KERNEL_TESTS)


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["gpu"]) == 1
    assert "no GPU" in capsys.readouterr().err


def test_rows_of_what_ran_and_of_what_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fake(command: list[str], timeout_s: float) -> tuple[str | None, str]:
        if "throughput" in command:
            return gpu_run([sys.executable, "-c", "import sys; sys.exit('out of memory')"], timeout_s)
        rate = 181 if "int8" in command else 90.5
        output: dict[str, Any] = {"metrics": {"decode_tokens_per_s": rate, "prefill_gflops": 7.0}}
        Path(command[command.index("--output") + 1]).write_text(json.dumps(output))
        return None, ""

    gpu_run = gpu._run
    monkeypatch.setattr(gpu, "_run", fake)
    written = tmp_path / "gpu.json"
    arguments = ["--device", "cpu", "--attention", "torch", "--no-kernel-tests", "--output", str(written)]
    assert main(["gpu", *arguments, "--quantization", "int8"]) == 0
    out = capsys.readouterr().out
    assert "failed: out of memory" in out
    metrics = json.loads(written.read_text())["metrics"]
    assert metrics["decode, batch 1, torch/decode_tokens_per_s"] == 90.5
    assert metrics["decode, batch 1, torch, int8/over_plain"] == 2
    assert not any("requests of 512" in name for name in metrics)


def test_what_takes_too_long_is_named() -> None:
    failure, _ = gpu._run([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)
    assert failure is not None
    assert "took longer" in failure
