"""What adds up over the ranks what each has computed of a layer: collectives, or the kernel that norms the sum."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

from model.backends.agreement import Agreement
from model.checkpoint.weights import Share
from model.config import EngineConfig
from model.device import programs_of
from model.kernels import cuda_graphs
from model.kernels.all_reduce_layout import Layout
from model.kernels.cuda_graphs import Record
from model.network import symmetric_memory
from model.network.peer_atomics import require_peer_atomics

if TYPE_CHECKING:
    from model.kernels.triton_all_reduce import FusedAllReduce

logger = logging.getLogger(__name__)

T = TypeVar("T")
PATIENCE = 5_000_000
"""Polls of the check, of about a microsecond, after which signals are given up that do not arrive."""
ON_SHARED_GPUS = False
"""Whether ranks of one GPU may use it, to see that it is right: they wait for each other while they take turns."""


class _CannotBeHad(Exception):
    """On all ranks. The text says why."""


def fused_all_reduce(
    config: EngineConfig, share: Share, most_error: float, record: Record = cuda_graphs.record
) -> FusedAllReduce | None:
    """For ranks that run our Triton kernels, all of which ask at once: compiled, and compared with the collective.

    None: nobody wants it, or it cannot be had on one of them: collectives do all. most_error: that it may have, by
    values of about 1. record: as steps are recorded.
    """
    if config.all_reduce != "fused" or share.group.size == 1:
        return None
    started = time.monotonic()
    try:
        fused = _made(config, share, most_error, record)
    except _CannotBeHad as reason:
        logger.warning("ranks add up by collectives instead of our fused kernel: %s", reason)
        return None
    logger.info(
        "steps of up to %d rows add up over the ranks in our fused kernel, checked in %.1f s",
        fused.most_rows,
        time.monotonic() - started,
    )
    return fused


def _made(config: EngineConfig, share: Share, most_error: float, record: Record) -> FusedAllReduce:
    from model.kernels.all_reduce_check import Comparison, compile_kernel, random_norm
    from model.kernels.triton_all_reduce import FusedAllReduce

    group, device, dtype, width = share.group, share.device, share.dtype, share.model.n_embd
    if group.shares_gpu and not ON_SHARED_GPUS:
        raise _CannotBeHad("ranks share a GPU, and wait for each other in turn")
    ranks = Agreement(group, device)
    if others := {gpu for gpu in group.gpus if gpu != group.gpus[group.rank]}:
        _everywhere(ranks, lambda: require_peer_atomics(group.gpus[group.rank], others))
    layout = Layout(group.size, width, dtype.itemsize)
    memory = _everywhere(ranks, lambda: symmetric_memory.allocate(layout.bytes, device))
    _everywhere(ranks, lambda: memory.meet(group))
    memory.own.zero_()
    programs = torch.tensor([programs_of(device) if rank == group.rank else 0 for rank in range(group.size)])
    fewest = int(group.all_reduce(programs.to(device)).min())  # nobody has signalled until all have zeros
    fused = FusedAllReduce(memory, group.rank, width, dtype, fewest)
    norm = random_norm(width, dtype, device)
    _everywhere(ranks, lambda: compile_kernel(fused, norm, dtype, device))
    comparison = Comparison(fused, group, norm, dtype, device, PATIENCE)
    with torch.inference_mode():
        for rows in (1, min(3, fused.most_rows), fused.most_rows):
            _agree_on(ranks, comparison.max_error(rows), most_error, f"of {rows} rows")
        if config.cuda_graphs and device.type == "cuda" and not group.shares_gpu:
            rows = min(2, fused.most_rows)
            _agree_on(ranks, comparison.replayed_error(rows, record), most_error, "that were recorded")
    return fused


def _everywhere(ranks: Agreement, step: Callable[[], T]) -> T:
    """What it returns here, once it has returned everywhere."""
    made: list[T] = []
    reason = None
    try:
        made.append(step())
    except Exception as failure:  # drivers and compilers fail in many ways, and the model can be served all the same
        reason = f"{type(failure).__name__}: {failure}"
    if (reason := ranks.obstacle(reason)) is not None:
        raise _CannotBeHad(reason)
    return made[0]


def _agree_on(ranks: Agreement, error: float, most: float, what: str) -> None:
    if reason := ranks.obstacle(None if error <= most else f"sums {what} are off by {error:.2g}"):
        raise _CannotBeHad(reason)
