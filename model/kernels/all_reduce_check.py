"""The fused all-reduce before it serves: on all ranks at once, against the collective and the norm that it replaces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from model.device import wait_for
from model.kernels import cuda_graphs
from model.kernels.cuda_graphs import Record
from model.kernels.triton_all_reduce import FusedAllReduce
from model.network.operations import TorchOperations
from model.network.parallel import TensorParallel

ROUNDS = 4
"""Of each number of rows: each place is written, and written again while others may still read."""
MANY_ROUNDS = 256
"""Where one takes microseconds: what goes wrong once in a hundred calls would go wrong in each step of a model."""
_GIVEN = 4
"""Different values, which rounds take in turn."""
_AT_ONCE = 16
"""Rounds whose results are kept: 25 MB of 64 rows of StarCoder."""


def compile_kernel(fused: FusedAllReduce, norm: nn.LayerNorm, dtype: torch.dtype, device: torch.device) -> None:
    """Call it once, on every rank, without waiting for anybody: what it gives is nothing."""
    row = torch.zeros(1, norm.weight.numel(), dtype=dtype, device=device)
    fused.add_norm(row, row, norm, patience=0)
    wait_for(device)


def random_norm(width: int, dtype: torch.dtype, device: torch.device) -> nn.LayerNorm:
    """The same on all ranks."""
    noise = torch.Generator().manual_seed(0)
    norm = nn.LayerNorm(width, device=device, dtype=dtype)
    norm.weight.data = torch.randn(width, generator=noise).to(device, dtype)
    norm.bias.data = torch.randn(width, generator=noise).to(device, dtype)
    return norm


class Comparison:
    """One rank's. Every rank makes one and calls the same methods, with the same arguments, in one order.

    patience: of `FusedAllReduce.add_norm`, so that the comparison ends where signals do not arrive.
    """

    def __init__(
        self,
        fused: FusedAllReduce,
        group: TensorParallel,
        norm: nn.LayerNorm,
        dtype: torch.dtype,
        device: torch.device,
        patience: int,
    ) -> None:
        self._fused, self._group, self._norm, self._dtype, self._device = fused, group, norm, dtype, device
        self._patience = patience
        self._width = norm.weight.numel()
        self._rounds = MANY_ROUNDS if device.type == "cuda" else ROUNDS

    def max_error(self, rows: int) -> float:
        """The largest difference from what collectives and PyTorch give, of values beyond 1 by the value. Waits for the
        device.

        Not a number where another rank's values did not come in time.
        """
        given = [self._noise(rows, number) for number in range(min(self._rounds, _GIVEN))]
        exact = [self._exact(x, part) for x, part in given]
        errors = []
        for first in range(0, self._rounds, _AT_ONCE):
            turns = [number % len(given) for number in range(first, min(first + _AT_ONCE, self._rounds))]
            # one after the other, with nothing between them that holds up whoever is ahead
            found = [self._fused.add_norm(*given[turn], self._norm, self._patience) for turn in turns]
            errors.append(self._largest(found, [exact[turn] for turn in turns]))
        return float(torch.stack(errors).max())

    def replayed_error(self, rows: int, record: Record) -> float:
        """As `max_error`, of a recording of two calls that is replayed with other values each time."""
        x, part = self._noise(rows, 0)

        def two_calls() -> torch.Tensor:
            first = self._fused.add_norm(x, part, self._norm, self._patience)
            return torch.stack([*first, *self._fused.add_norm(first[1], part, self._norm, self._patience)])

        replay = record(two_calls)
        found, exact = [], []
        for number in range(self._rounds):
            for place, value in zip((x, part), self._noise(rows, number), strict=True):
                place.copy_(value)
            replayed = replay().clone()
            found += [(replayed[0], replayed[1]), (replayed[2], replayed[3])]
            exact += [self._exact(x, part), self._exact(replayed[1], part)]
        cuda_graphs.leave_pool()
        return float(self._largest(found, exact))

    def _noise(self, rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum so far, which all ranks have, and this rank's part."""

        def values(seed: int) -> torch.Tensor:
            noise = torch.Generator().manual_seed(seed)
            return torch.randn(rows, self._width, generator=noise).to(self._device, self._dtype)

        return values(1000 * seed), values(1000 * seed + 1 + self._group.rank) / self._group.size**0.5

    def _exact(self, x: torch.Tensor, part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """In float32, but for a sum that is rounded before it is normalised."""
        total = (self._group.all_reduce(part.to(torch.float32, copy=True)) + x.float()).to(self._dtype)
        return total, TorchOperations().add_norm(torch.zeros_like(total), total, self._norm)[1]

    @staticmethod
    def _largest(found: Sequence[tuple[torch.Tensor, ...]], exact: Sequence[tuple[torch.Tensor, ...]]) -> torch.Tensor:
        pairs = [pair for ours, theirs in zip(found, exact, strict=True) for pair in zip(ours, theirs, strict=True)]
        return torch.stack([_error(ours.float(), theirs.float()) for ours, theirs in pairs]).max()


def _error(found: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    return ((found - exact).abs() / exact.abs().clamp(min=1)).max()
