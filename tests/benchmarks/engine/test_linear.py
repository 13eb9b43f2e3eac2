"""Times of single products: every way computes the same, and every row of the table has its time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.engine.linear import layer_sizes
from benchmarks.engine.linear_tiles import CANDIDATES, name_of
from benchmarks.shapes import SHAPES, shape_config
from model.config import ModelConfig
from model.kernels.linear_tiles import ROW_CLASSES
from tests.support.triton_process import TritonPrograms

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


def test_every_way_multiplies(triton_programs: TritonPrograms) -> None:
    pytest.importorskip("triton", reason="Triton has no build for this machine")
    [errors] = triton_programs.run(WAYS, interpret=True)
    assert set(errors) == {"int8 kernel", "int8 widened", "fp8 kernel", "fp8 widened"}
    assert 0 < errors["int8 kernel"] < 0.5
    assert 0 < errors["fp8 kernel"] < 2


TILES = """
import json, multiprocessing
from benchmarks.__main__ import build_parser
from benchmarks.engine import linear, linear_tiles
from benchmarks.shapes import SHAPES
from model.kernels.linear_tiles import Tile

linear_tiles.get_context = lambda method: multiprocessing.get_context("fork")  # which has imported everything
SHAPES["164m"] = {"n_layer": 1, "n_embd": 64, "n_head": 2, "n_inner": 96}
linear_tiles.CANDIDATES = {8: (Tile(8, 16, 32, 2, warps=1), Tile(16, 32, 32, 2, warps=1, joins=False)),
                           64: (Tile(32, 16, 32, 2, warps=1, blocks=2), Tile(7, 16, 32, 2, warps=1))}
options = ["--tiles", "--device", "cpu", "--shape", "164m", "--rows", "1", "40", "--weights-mib", "1"]
result = linear.run(build_parser("linear").parse_args(["linear", *options]))
print(json.dumps([result.metrics, result.settings["refused"], result.text()]))
result = linear.run(build_parser("linear").parse_args(["linear", *options, "--seconds", "0"]))
print(json.dumps([result.metrics, result.settings["refused"], result.text()]))
"""


def test_tiles_are_timed_and_what_fails_is_named(triton_programs: TritonPrograms) -> None:
    pytest.importorskip("triton", reason="Triton has no build for this machine")
    (metrics, refused, text), (none, why, _) = triton_programs.run(TILES, interpret=True)
    assert metrics["int8/1/1x8 o16 d32 s2 w1 r3/c_attn_us"] > 0
    assert metrics["int8/1/1x16 o32 d32 s2 w1 r3 two kernels/mlp.c_proj_us"] > 0
    assert metrics["int8/40/2x32 o16 d32 s2 w1 r3/c_fc_us"] > 0
    assert list(refused) == ["int8 1x7 o16 d32 s2 w1 r3"]
    assert "int8, 1 rows" in text
    assert "int8, 40 rows" in text
    assert not any(name.endswith("_us") for name in none)
    assert "no time was left" in why["int8 1x8 o16 d32 s2 w1 r3"]


def test_candidates_are_of_their_class_and_compile_elsewhere(triton_programs: TritonPrograms) -> None:
    """No GPU is needed to compile one; what is no tile is told apart."""
    assert set(CANDIDATES) == set(ROW_CLASSES)
    assert all(len(set(map(name_of, tiles))) == len(tiles) for tiles in CANDIDATES.values())
    pytest.importorskip("triton", reason="Triton has no build for this machine")
    assert triton_programs.run(COMPILED, interpret=False) == [[None, True]]


COMPILED = """
import json
from benchmarks.engine.linear_tiles import compile_one
from model.kernels.linear_tiles import Tile

wrong = compile_one(90, "int8", Tile(7, 16, 32, 2, warps=1), False)
print(json.dumps([compile_one(90, "fp8", Tile(8, 32, 64, 2, warps=1), True), wrong is not None]))
"""


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
