"""What stands between products, in Triton, against PyTorch's; run by Triton's interpreter where there is no GPU."""

from __future__ import annotations

import json

import pytest

from tests.support.triton_process import run_with_triton

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


def test_equals_pytorch() -> None:
    errors = run_with_triton(CASES, json.dumps(SHAPES))
    assert len(errors) == len(SHAPES)
    assert max(errors) < 5e-4
    assert max(errors[:3]) < 1e-5
