"""The kernel's activations are as exact as PyTorch's in float32, over all that a float32 can be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from model.config import Activation
from model.kernels.native import library as native
from model.kernels.native.structures import ACTIVATIONS
from tests.support.native import needs_kernel, only, variants

pytestmark = needs_kernel

APPROXIMATE = {"gelu_tanh": "tanh", "gelu_erf": "none"}
_OUTWARD = [1e-3, 0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 5.5, 8.0, 14.0]
EDGES = [*(-x for x in reversed(_OUTWARD)), *_OUTWARD]


@pytest.fixture(params=variants(), autouse=True)
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with only(monkeypatch, request.param):
        yield


def ours(which: Activation, x: torch.Tensor) -> torch.Tensor:
    x = x.contiguous()
    padded = F.pad(x, (0, -len(x) % 16))
    out = torch.empty_like(padded)
    native.library().starcoder_activate(ACTIVATIONS.index(which), padded.data_ptr(), out.data_ptr(), len(padded))
    return out[: len(x)]


def exact(which: Activation, x: torch.Tensor) -> torch.Tensor:
    """By PyTorch in float64, and by the complements of tanh and erf, which keep their digits below zero."""
    x = x.double()
    if which == "gelu_erf":
        return x * torch.special.erfc(-x / math.sqrt(2)) / 2
    return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def theirs(which: Activation, x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate=APPROXIMATE[which])


@pytest.mark.parametrize("which", APPROXIMATE)
def test_no_error_is_larger_than_pytorchs(which: Activation) -> None:
    """Over everything, and in each interval but for a unit in the last place of its largest result."""
    ours_largest = theirs_largest = 0.0
    for low, high in itertools.pairwise(EDGES):
        x = torch.linspace(low, high, 1 << 18)
        want = exact(which, x)
        torch.testing.assert_close(F.gelu(x.double(), approximate=APPROXIMATE[which]), want, rtol=0, atol=1e-14)
        our_error = float((ours(which, x) - want).abs().max())
        their_error = float((theirs(which, x) - want).abs().max())
        assert our_error <= their_error + float(want.abs().max()) * 2.0**-23, (low, high)
        ours_largest, theirs_largest = max(ours_largest, our_error), max(theirs_largest, their_error)
    assert ours_largest <= theirs_largest < 2e-6


@pytest.mark.parametrize("which", APPROXIMATE)
def test_below_zero_small_results_keep_their_digits(which: Activation) -> None:
    """Where PyTorch's float32 has none of them."""
    x = -torch.linspace(0.5, 12.0, 1 << 12)
    want = exact(which, x)
    normal = want.abs() > 1e-35
    error, theirs_error = (((found(which, x) - want) / want).abs()[normal] for found in (ours, theirs))
    rounded = x[normal].double() ** 4 * 2.0**-24  # x and its powers in the exponent
    assert torch.all(error < 1e-6 + rounded)
    assert theirs_error.max() == 1


@pytest.mark.parametrize("which", ACTIVATIONS)
def test_huge_and_tiny_values_infinity_and_nan(which: Activation) -> None:
    inf, nan = float("inf"), float("nan")
    big = torch.tensor([1e4, 1e10, 1e13, 1e19, 1e20, 1e30, 3e38, inf])
    assert torch.equal(ours(which, big), big)
    negative = ours(which, -big)
    assert torch.all(negative[:-1] == 0)
    assert torch.isnan(negative[-1]) if which != "relu" else negative[-1] == 0  # as PyTorch has it
    assert torch.isnan(ours(which, torch.tensor([nan, -nan]))).all()
    tiny = torch.tensor([0.0, 1e-10, 1e-30, 1e-38])
    for signed in (tiny, -tiny):
        want = F.relu(signed) if which == "relu" else signed / 2
        torch.testing.assert_close(ours(which, signed), want, rtol=1e-6, atol=1e-44)


def test_relu_is_pytorchs() -> None:
    x = torch.randn(1 << 12) * 10
    assert torch.equal(ours("relu", x), F.relu(x))
