"""Products with 8-bit weights against the definition, run by Triton's interpreter where there is no GPU.

The interpreter multiplies no bfloat16; a GPU is asked for that as well.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint.memory import parameter_bytes, scratch_values
from model.config import ConfigError, EngineConfig, ModelConfig
from model.kernels.rounding import round_rows
from model.network.gpt_bigcode import GPTBigCode
from model.network.parallel import TensorParallel
from model.process.rank import Rank
from tests.support.checkpoints import random_model, write_checkpoint
from tests.support.triton_process import TritonPrograms

triton = pytest.importorskip("triton", reason="Triton has no build for this machine")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = ["int8", "fp8"] if DEVICE == "cpu" or torch.cuda.get_device_capability() >= (8, 9) else ["int8"]


SHAPES = [(rows, 150, 330) for rows in (1, 16, 17, 40, 70, 130)] + [(2, 32, 128), (5, 7, 48)]
FORMS = [("int8", "float32", True, None), ("int8", "float16", False, 3), ("fp8", "float32", True, 1)]
if DEVICE == "cuda":
    FORMS += [(kind, "bfloat16", True, splits) for kind in ("int8", "fp8") for splits in (None, 3)]
CASES = [(*shape, *form) for shape in SHAPES for form in FORMS if form[0] in KINDS]
KERNELS = """
import json, sys, torch
from model.device import programs_of
from model.kernels.rounding import round_rows
from model.kernels.linear_tiles import class_starts
from model.kernels.triton_linear import counters, multiply, multiply_widened

device = torch.device(sys.argv[2])
finished = counters(device)
for rows, outputs, inputs, kind, dtype, has_bias, splits in json.loads(sys.argv[1]):
    generator = torch.Generator().manual_seed(rows)
    dtype = getattr(torch, dtype)
    x = torch.randn(rows, inputs, generator=generator).to(device, dtype)
    weight, scale = round_rows(torch.randn(outputs, inputs, generator=generator).to(device), kind)
    bias = torch.randn(outputs, generator=generator).to(device, dtype) if has_bias else None
    exact = x.double() @ (weight.float().double() * scale[:, None]).T + (0 if bias is None else bias.double())
    found = multiply(x, weight, scale, bias, programs_of(device), splits)
    again = multiply(x, weight, scale, bias, programs_of(device), splits, finished)
    # the last row with as many others as share its tile, none of them as before
    few = max(start for start in class_starts() if start <= rows)
    other = torch.cat([torch.randn(few - 1, inputs, generator=generator).to(x), x[-1:]])
    alone = multiply(other, weight, scale, bias, programs_of(device), splits)
    scratch = torch.empty(inputs * 64, dtype=dtype, device=device)
    widened = multiply_widened(x, weight, scale, bias, scratch)
    error, error_of_widened = (((y.double() - exact).abs().max() / exact.abs().max()).item() for y in (found, widened))
    same = [torch.equal(found, again) and not finished.any().item(), torch.equal(found[-1], alone[-1])]
    print(json.dumps([error, error_of_widened, found.dtype == dtype, *same]))
"""


@pytest.mark.parametrize("number", range(len(CASES)), ids=["-".join(map(str, case)) for case in CASES])
def test_equals_the_definition(outcomes: list[Any], number: int) -> None:
    error, of_widened, same_type, again, alone = outcomes[number]
    limit = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}[CASES[number][4]]
    assert error < limit
    assert of_widened < limit
    assert same_type
    assert again, "another run gives other sums, or has left its counters"
    assert alone, "a row depends on its neighbours"


FP8_BY_FP8 = """
from model.kernels.triton_linear import multiply_fp8

generator = torch.Generator().manual_seed(1)
x = torch.randn(40, 96, generator=generator).bfloat16()
bias = torch.randn(48, generator=generator).bfloat16()
x[3] = 0
(weight, scale), (narrow, scales) = (round_rows(t, "fp8") for t in (torch.randn(48, 96, generator=generator), x))
exact = (narrow.float() * scales[:, None]) @ (weight.float() * scale[:, None]).T + bias.float()
device = "cuda" if device.type == "cuda" and torch.cuda.get_device_capability()[0] == 9 else "cpu"
found = multiply_fp8(*(t.to(device) for t in (x, weight, scale, bias)))
print(json.dumps([str(found.dtype), (found.cpu().float() - exact).abs().max().item(), exact.abs().max().item()]))
"""


JOINED_OR_NOT = """
from dataclasses import replace
from model.kernels.linear_tiles import Tile

x = torch.randn(40, 300, generator=generator).half()
weight, scale = round_rows(torch.randn(70, 300, generator=generator), "int8")
tensors = [t.to(sys.argv[2]) for t in (x, weight, scale)]
exact = x.double() @ (weight.double() * scale[:, None]).T
for tile in (Tile(32, 64, 64, 5, warps=2, blocks=2), Tile(16, 64, 64, 4, warps=4)):
    one, two, three = (multiply(*tensors, None, 8, 3, tile=replace(tile, joins=joins)) for joins in (True, False, True))
    assert torch.equal(one, two) and torch.equal(one, three)
    assert (one.cpu().double() - exact).abs().max() < 1e-3 * exact.abs().max()
"""
ROUNDING = """
from model.kernels.triton_linear import round_to_fp8

# the interpreter (3.7) does not carry from the mantissa to the exponent: of these values none is rounded up to a power
x = (torch.randint(0, 2, (5, 5000), generator=generator) * 2 - 1) * (1 + 0.8 * torch.rand(5, 5000, generator=generator))
x[:, 7] = 448
narrow, scales = round_to_fp8(x.to(device))
data, exact = round_rows(x, "fp8")
print(json.dumps([torch.equal(narrow.cpu().float(), data.float()), torch.equal(scales.cpu(), exact)]))
"""


@pytest.fixture(scope="module")
def outcomes(triton_programs: TritonPrograms) -> list[Any]:
    """Of every case, of rounding, and of fp8 by fp8. Ways to add parts up compare themselves."""
    return triton_programs.run(KERNELS + JOINED_OR_NOT + FP8_BY_FP8 + ROUNDING, json.dumps(CASES), DEVICE)


def test_one_pass_rounds_rows_like_many(outcomes: list[Any]) -> None:
    if DEVICE == "cuda" and torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("only Hopper GPUs multiply fp8 by fp8")
    assert outcomes[-1] == [True, True]


def test_fp8_by_fp8_rounds_both_sides_by_rows(outcomes: list[Any]) -> None:
    dtype, error, largest = outcomes[-2]
    assert dtype == "torch.bfloat16"
    assert error < largest * 2**-7


def test_rounding_keeps_the_largest_and_is_off_by_half_a_step_at_most() -> None:
    weight = torch.randn(2100, 40, generator=torch.Generator().manual_seed(0))
    weight[5] = 0
    largest = weight.abs().amax(dim=1)
    data, scale = round_rows(weight, "int8")
    assert data.dtype is torch.int8
    assert (data.abs().amax(dim=1)[weight.any(dim=1)] == 127).all()
    assert ((data * scale[:, None] - weight).abs() <= (largest / 127 / 2 + 1e-6)[:, None]).all()
    data, scale = round_rows(weight, "fp8")
    assert data.dtype is torch.float8_e4m3fn
    back = data.float() * scale[:, None]
    # three bits behind the first one, and steps of 2^-9 below 2^-6
    assert ((back - weight).abs() <= (weight.abs() / 16).maximum((largest / 448 * 2**-10)[:, None]) + 1e-6).all()


ENGINE = """
import json, sys, torch
from model.config import EngineConfig
from model.network.layers import Linear
from model.kernels.quantization import QuantizedLinear, Quantizer
from model.process.rank import Rank
from model.request import Request, SamplingParams
from model.kernels.rounding import round_rows
from tests.support.batches import batch_of

common = {"model": sys.argv[1], "device": sys.argv[2], "dtype": "float32", "num_threads": 1, "num_kv_blocks": 200}

def rank_of(**options):
    rank = Rank(EngineConfig(**common, **options))
    return rank, rank.load()["parameter_bytes"]

def write(rank):
    engine = rank.engine()
    params = SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True)
    engine.add(Request("0", list(range(5, 30)), params))
    engine.add(Request("1", list(range(9, 16)), params))
    answers = {}
    while engine.has_work():
        for output in engine.step():
            answers.setdefault(output.request_id, []).extend(output.token_ids)
    return answers

def compiles(kind, device):
    # what loading on a GPU does
    quantizer = Quantizer(kind, device, torch.float32, 64 * 96)
    for has_bias in (True, False, True):
        bias = torch.zeros(64, device=device) if has_bias else None
        quantizer.compile(quantizer(torch.randn(64, 96, device=device), bias))

for kind in sys.argv[3:]:
    compiles(kind, torch.device(common["device"]))
    reference, _ = rank_of()
    network = reference._runner.backend.network
    network.lm_head.weight.data = network.lm_head.weight.data.clone()
    for module in network.modules():
        if isinstance(module, Linear):
            data, scale = round_rows(module.weight.data, kind)
            module.weight.data = data.float() * scale[:, None]
    ours, held = rank_of(quantization=kind, attention="triton")
    batch = batch_of([(0, 1), (0, 7), (0, 20)], 211, 3)
    plain, rounded, found = (rank._runner.run(batch).clone() for rank in (rank_of()[0], reference, ours))
    layers = [m for m in ours._runner.backend.network.modules() if isinstance(m, Linear | QuantizedLinear)]
    assert len(layers) == 5
    assert all(isinstance(layer, QuantizedLinear) for layer in layers)
    many = batch_of([(0, 257)], 211, 3)
    wide = [rank._runner.run(many) for rank in (reference, ours)]
    errors = [(a - b).abs().max().item() for a, b in ((found, rounded), (found, plain), wide)]
    copied = ours._runner.backend.head_is_copied
    print(json.dumps([*errors, held, write(reference) == write(ours), copied]))
"""


RANKS = """
from model.runner import Runner
from tests.support.ranks import LoneRank

# each rank's share of a row-parallel product, added up as the ranks would; loading needs no other rank
partial = []
for rank in range(2):
    config = EngineConfig(**common, tensor_parallel_size=2, quantization="int8", attention="triton")
    runner = Runner(config, LoneRank(rank, 2), torch.device(common["device"]))
    layer = runner.backend.network.h[0].mlp.c_proj
    x = torch.randn(5, 96, generator=torch.Generator().manual_seed(0)).to(common["device"])
    partial.append(layer(x.chunk(2, dim=1)[rank]))
    print(json.dumps([runner.report.parameter_bytes, layer.bias is None]))
whole = rank_of()[0]._runner.backend.network.h[0].mlp.c_proj
exact = sum(
    xs @ (data.float() * scale[:, None]).T
    for xs, (data, scale) in zip(x.chunk(2, 1), (round_rows(w, "int8") for w in whole.weight.chunk(2, 1)))
) + whole.bias
print(json.dumps((sum(partial) - exact).abs().max().item()))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = random_model(n_embd=64, n_head=4, n_layer=1, n_inner=96, n_positions=320)
    return write_checkpoint(tmp_path_factory.mktemp("linear") / "model", model)


@pytest.fixture(scope="module")
def engines(checkpoint: Path, triton_programs: TritonPrograms) -> list[Any]:
    """Of every kind of weights, of two ranks, and their error."""
    return triton_programs.run(ENGINE + RANKS, str(checkpoint), DEVICE, *KINDS)


def test_a_quantised_engine_is_one_with_rounded_weights(checkpoint: Path, engines: list[Any]) -> None:
    model = ModelConfig.from_checkpoint(checkpoint)
    for error, by_rounding, of_many, held, same_text, copied in engines[: len(KINDS)]:
        assert error < 1e-4 < by_rounding
        assert of_many < 1e-4
        assert same_text
        assert copied
        assert held == parameter_bytes(model, 0, 1, 4, "int8")


def test_ranks_round_their_own_slices(checkpoint: Path, engines: list[Any]) -> None:
    model = ModelConfig.from_checkpoint(checkpoint)
    *ranks, error = engines[len(KINDS) :]
    assert ranks == [[parameter_bytes(model, rank, 2, 4, "int8"), rank == 1] for rank in range(2)]
    assert error < 1e-5


def test_the_plan_counts_a_byte_a_weight_and_the_scratch(checkpoint: Path) -> None:
    model = ModelConfig.from_checkpoint(checkpoint)
    network = GPTBigCode.without_storage(model, TensorParallel())
    shapes = [tuple(p.shape) for n, p in network.named_parameters() if p.dim() == 2 and n.split(".")[0] == "h"]
    rounded = [*shapes, (model.vocab_size, model.n_embd)]
    saved = sum(outputs * (inputs - 4) for outputs, inputs in shapes)  # of two bytes a weight
    added = model.vocab_size * (model.n_embd + 4)  # a tied head beside the embedding
    plain, held = parameter_bytes(model, 0, 1, 2), parameter_bytes(model, 0, 1, 2, "fp8")
    assert plain - held == saved - added
    assert len(rounded) == 5
    assert scratch_values(model, 1) == max(outputs * inputs for outputs, inputs in shapes)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"quantization": "fp8"}, "fp8 needs a GPU; on a CPU there is int8"),
        ({"quantization": "int8", "attention": "triton"}, "int8 with attention=triton needs a GPU"),
        ({"cpu_kernels": "native", "attention": "triton"}, "exclude each other"),
        ({"quantization": "int8", "cpu_kernels": "torch"}, "not cpu_kernels=torch"),
    ],
)
def test_where_it_cannot_run_it_says_so(checkpoint: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Rank(EngineConfig(model=str(checkpoint), device="cpu", **options)).load()


def test_without_triton_a_gpu_quantises_nothing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model.kernels.quantization", None)
    config = EngineConfig(model=str(checkpoint), device="cpu", quantization="int8", attention="triton")
    with pytest.raises(ConfigError, match="needs the package triton"):
        Rank(config).load()


def test_older_gpus_have_no_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    from model.kernels.quantization import obstacle

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    device = torch.device("cuda", 0)
    assert obstacle("int8", device) is None
    assert "NVIDIA A100 has 8.0" in str(obstacle("fp8", device))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert obstacle("fp8", device) is None
