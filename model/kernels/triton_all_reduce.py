"""A layer's partial sums added up over the ranks, to the residual, and normalised: one launch instead of two.

A decode step of a few rows has some eighty all-reduces of a few kilobytes. By NCCL each is a kernel of its own, in
front of the one that adds and norms. Here each rank puts its rows where the others' kernels can read them, says so, and
reads everybody's: "one-shot", as in vLLM's and TensorRT-LLM's custom all-reduces. Each rank reads all rows of all
ranks, so that it is for few rows only.

Why nothing is overwritten that somebody still reads, and no signal is lost. Each row counts its own calls, on every
rank alike, since all ranks run the same batch. In call n of a row its program writes to place n % 2, signals n to every
rank, waits until every rank has signalled n or more, and reads place n % 2 of everybody. A rank that writes to this
place again is in call n + 2 of the row. It has then seen everybody's signal n + 1, which others give only in their call
n + 1, a launch that their stream began when that of call n, with its reads, had ended. So two places suffice, and a
signal is at most one ahead of who waits for it. What is counted is in the device's memory: a recorded graph, which
replays the same arguments, counts on.

A program waits for the same row's programs on other ranks. All programs of a launch run at once, whose number is
bounded by the multiprocessors', so that none waits for one that has no room to begin.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import nn

from model.kernels.all_reduce_layout import MOST_ROWS, PLACES, Layout
from model.kernels.triton_operations import normalise, warps_of
from model.network.symmetric_memory import SymmetricMemory

PATIENCE = 600_000_000
"""Polls until a program gives up waiting, of some microsecond each: about as long as NCCL's watchdog waits. Whoever has
a deadline for a step ends the rank's process long before."""


@triton.jit(do_not_specialize=["eps", "rank", "patience"])
def _all_reduce_add_norm(
    part,
    x,
    weight,
    bias,
    summed,
    normed,
    addresses,
    calls,
    eps,
    rank,
    patience,
    SIZE: tl.constexpr,
    PEERS: tl.constexpr,
    ROWS: tl.constexpr,
    PLACES: tl.constexpr,
    SIGNALS: tl.constexpr,
    N: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One row. addresses: of each rank's memory: values [PLACES, ROWS, N], and at byte SIGNALS int32 [ROWS, SIZE], the
    call that each rank has last signalled. calls [ROWS]: of this rank. PEERS: a power of two, SIZE or more.

    Where patience ends, the row is no number: a sum that lacks somebody's part would be a wrong one.
    """
    row = tl.program_id(0)
    column = tl.arange(0, COLUMNS)
    inside = column < N
    peer = tl.arange(0, PEERS)
    exists = peer < SIZE
    type_of_values = tl.pointer_type(part.dtype.element_ty)
    call = tl.load(calls + row) + 1
    place = ((call & (PLACES - 1)) * ROWS + row) * N + column
    own = tl.load(addresses + rank)
    value = tl.load(part + row * N + column, mask=inside)
    tl.store(tl.multiple_of(own.to(type_of_values), 16) + place, value, mask=inside)
    tl.debug_barrier()  # all threads have written
    signals = (tl.load(addresses + peer, mask=exists, other=0) + SIGNALS).to(tl.pointer_type(tl.int32))
    tl.atomic_xchg(signals + row * SIZE + rank, call, mask=exists, sem="release", scope="sys")
    # all that can be loaded before the others' values
    total = tl.load(x + row * N + column, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + column, mask=inside, other=0.0)
    b = tl.load(bias + column, mask=inside, other=0.0)
    everyones = ()
    for number in tl.static_range(SIZE):
        address = tl.load(addresses + number).to(type_of_values)
        everyones += (tl.multiple_of(address, 16),)  # type: ignore[assignment]
    awaited = (own + SIGNALS).to(tl.pointer_type(tl.int32)) + row * SIZE + peer
    missing = SIZE
    polls = 0
    while (missing > 0) & (polls < patience):
        signalled = tl.atomic_add(awaited, 0, mask=exists, sem="acquire", scope="sys")
        missing = tl.sum((exists & (signalled - call < 0)).to(tl.int32), 0)  # a difference: counts begin anew
        polls += 1
    tl.debug_barrier()  # no thread reads before
    reduced = tl.zeros([COLUMNS], tl.float32)
    for number in tl.static_range(SIZE):  # in one order, so that all ranks get the same bits
        reduced += tl.load(everyones[number] + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(calls + row, call)
    total = tl.where(missing > 0, float("nan"), total + reduced).to(summed.dtype.element_ty)
    tl.store(summed + row * N + column, total, mask=inside)
    result = normalise(total.to(tl.float32), inside, eps, N) * w.to(tl.float32) + b.to(tl.float32)
    tl.store(normed + row * N + column, result.to(normed.dtype.element_ty), mask=inside)


class FusedAllReduce:
    """One rank's part. All ranks call the same methods in one order, each time with as many rows.

    It owns the memory that its kernels use: whoever keeps a recording of them keeps it, too.
    """

    def __init__(
        self, memory: SymmetricMemory, rank: int, width: int, dtype: torch.dtype, multiprocessors: int = MOST_ROWS
    ) -> None:
        """memory: the bytes of a `Layout`, zeros on every rank, met. multiprocessors: of the device that has fewest."""
        self._memory, self._rank, self._dtype = memory, rank, dtype
        self._layout = Layout(len(memory.addresses), width, dtype.itemsize)
        self.most_rows = min(self._layout.rows, multiprocessors)
        self._calls = torch.zeros(self._layout.rows, dtype=torch.int32, device=memory.addresses.device)

    def holds(self, part: torch.Tensor) -> bool:
        """Whether `add_norm` is for it [T, width]; the same on all ranks, whose parts have one shape."""
        return 0 < len(part) <= self.most_rows and part.dtype == self._dtype and part.shape[1] == self._layout.width

    def add_norm(
        self, x: torch.Tensor, part: torch.Tensor, norm: nn.LayerNorm, patience: int = PATIENCE
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x, and this rank's part of what is added to it, [T, width] -> the sum, and the sum normalised, [T, width].

        All ranks' parts are added in float32, and the sum is rounded once. patience: polls, after which a row of which
        another rank has not brought its part is no number.
        """
        x, part = x.contiguous(), part.contiguous()
        summed, normed = torch.empty_like(x), torch.empty_like(x)
        layout, columns = self._layout, triton.next_power_of_2(self._layout.width)
        _all_reduce_add_norm[(len(part),)](
            part,
            x,
            norm.weight,
            norm.bias,
            summed,
            normed,
            self._memory.addresses,
            self._calls,
            norm.eps,
            self._rank,
            patience,
            SIZE=layout.ranks,
            PEERS=triton.next_power_of_2(layout.ranks),
            ROWS=layout.rows,
            PLACES=PLACES,
            SIGNALS=layout.signals,
            N=layout.width,
            COLUMNS=columns,
            num_warps=warps_of(columns),
        )
        return summed, normed
