"""Times of single products: every way computes the same, and every row of the table has its time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.engine.linear import layer_sizes
from benchmarks.shapes import SHAPES, shape_config
from model.config import ModelConfig
from tests.support.triton_process import run_with_triton

WAYS = """
import json, torch
from benchmarks.engine.linear import ways

device = torch.device("cpu")
weight, x = torch.randn(48, 64), torch.randn(3, 64)
exact = ways(weight, "none", device)["plain"](x)
found = ways(weight, "int8", device) | ways(weight, "fp8", device)
print(json.dumps({name: (way(x) - exact).abs().max().item() for name, way in found.items()}))
"""


def test_layers_hold_the_weights_of_the_blocks() -> None:
    model = ModelConfig.model_validate(shape_config("1b"))
    *blocks, head = layer_sizes(model).values()
    assert model.n_layer * sum(n * k + n + k for n, k in blocks) == pytest.approx(
        model.num_parameters - head[0] * head[1], rel=0.02
    )


def test_every_way_multiplies() -> None:
    pytest.importorskip("triton", reason="Triton has no build for this machine")
    [errors] = run_with_triton(WAYS, interpret=True)
    assert set(errors) == {"int8 kernel", "int8 widened", "fp8 kernel", "fp8 widened"}
    assert 0 < errors["int8 kernel"] < 0.5
    assert 0 < errors["fp8 kernel"] < 2


def test_times_by_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "164m", {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_inner": 64})
    written = tmp_path / "linear.json"
    options = ["--device", "cpu", "--shape", "164m", "--rows", "1", "5", "--weights-mib", "1", "--output", str(written)]
    assert main(["linear", *options, "--quantization"]) == 0
    assert "mlp.c_proj, 64 to 32: microseconds" in capsys.readouterr().out
    metrics = json.loads(written.read_text())["metrics"]
    assert metrics["c_fc/plain/5_us"] > 0
    assert main(["linear", *options, "--quantization", "int8"]) == 2
    assert "needs a GPU" in capsys.readouterr().err
