"""What stands between products, in Triton, against PyTorch's; run by Triton's interpreter where there is no GPU."""

from __future__ import annotations

import json

import pytest

from tests.support.triton_process import TritonPrograms

pytest.importorskip("triton", reason="Triton has no build for this machine")

CASES = """
import json, sys
import torch
from torch import nn
from model.kernels.triton_operations import TritonOperations
from model.network.operations import TorchOperations

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
operations = (TritonOperations(), TorchOperations())
for rows, width, heads, head_dim, offset in json.loads(sys.argv[1]):
    generator = torch.Generator().manual_seed(rows)
    noise = lambda *shape: torch.randn(shape, generator=generator).to(device)
    x, more, qkv = offset + 3 * noise(rows, width), noise(rows, width), noise(rows, heads + 2, head_dim)
    norm = nn.LayerNorm(width, eps=1e-3, device=device)
    norm.weight.data, norm.bias.data = noise(width), noise(width)
    before = x.clone()
    (sum_, normed), (exact_sum, exact) = (o.add_norm(x, more, norm) for o in operations)
    assert torch.equal(x, before), "what is given is not to be changed"
    assert torch.equal(sum_, exact_sum)
    slots = torch.randperm(5 * 16, generator=generator)[:rows].to(device)
    caches = torch.full((2, 2, 5, 16, 1, head_dim), 7.0, device=device)
    for o, cache in zip(operations, caches):
        o.write(cache, qkv, slots)
    assert torch.equal(*caches)
    elsewhere = torch.where(torch.arange(rows, device=device) % 2 == 1, slots, -1)
    striped = torch.full_like(caches, 7.0)
    for o, cache in zip(operations, striped):
        o.write(cache, qkv, elsewhere)
    striped = striped.flatten(2, 3)
    assert torch.equal(*striped[:, :, :-1]), "what another rank keeps goes nowhere, or into the last slot"
    assert (striped[0, :, -1] == 7).all() or (elsewhere == striped.shape[2] - 1).any()
    assert int((caches[0] != 7).sum()) == 2 * rows * head_dim
    print(json.dumps(float((normed - exact).abs().max())))
"""
SHAPES = [
    (1, 64, 4, 16, 0.0),
    (5, 96, 1, 32, 0.0),  # a width that is no power of two
    (3, 2816, 22, 128, 0.0),
    (17, 640, 3, 64, 100.0),  # a mean that is far from 0
    (70, 16, 2, 16, -4.0),
]


def test_equals_pytorch(triton_programs: TritonPrograms) -> None:
    errors = triton_programs.run(CASES, json.dumps(SHAPES))
    assert len(errors) == len(SHAPES)
    assert max(errors) < 5e-4
    assert max(errors[:3]) < 1e-5


PRODUCTS = """
import json, sys
import torch
from torch.nn import functional as F
from model.kernels import triton_gemv
from model.kernels.triton_gemv import Tile
from model.kernels.triton_operations import TritonOperations
from model.network.layers import Linear
from model.network.operations import TorchOperations

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
generator = torch.Generator().manual_seed(3)
noise = lambda *shape: torch.randn(shape, generator=generator).to(device)
for rows, outputs, inputs, tile in json.loads(sys.argv[1]):
    x, weight, bias = noise(rows, inputs), noise(outputs, inputs) / inputs**0.5, noise(outputs)
    tile = Tile(*tile) if tile else None
    plain, biased, gelu = (
        triton_gemv.multiply(x, weight, None, tile=tile),
        triton_gemv.multiply(x, weight, bias, tile=tile),
        triton_gemv.multiply(x, weight, 4 * bias, gelu_tanh=True, tile=tile),
    )
    exact = F.linear(x.double(), weight.double())
    errors = [
        (plain - exact).abs().max(),
        (biased - exact - bias).abs().max(),
        (gelu - F.gelu(exact + 4 * bias, approximate="tanh")).abs().max(),
    ]
    alone = triton_gemv.multiply(x[:1].contiguous(), weight, bias, tile=tile)
    print(json.dumps([float(max(errors)), float((alone - biased[:1]).abs().max())]))
halves = [noise(3, 64).half(), noise(48, 64).half(), noise(48).half()]
layer, x = Linear(halves[1] / 8, halves[2]), halves[0]
pairs = [(o.linear(layer, x), o.activated(layer, x, "gelu_tanh"), o.activated(layer, x, "relu"))
         for o in (TritonOperations(), TorchOperations())]
print(json.dumps([max(float((a.float() - b.float()).abs().max()) for a, b in zip(*pairs)), 0.0]))
"""


def test_products_of_a_few_rows_equal_the_definition(triton_programs: TritonPrograms) -> None:
    shapes = [(1, 40, 300, None), (8, 64, 512, None), (9, 33, 70, None), (16, 17, 257, (32, 128, 4, 3))]
    found = triton_programs.run(PRODUCTS, json.dumps(shapes))
    assert len(found) == len(shapes) + 1
    assert max(error for error, _ in found[:-1]) < 1e-5
    assert max(alone for _, alone in found) < 1e-5, "a row's result depends on the rows beside it"
    assert found[-1][0] < 1e-2
