"""Two ranks that add up in our fused kernel, beside a collective and a norm: whether it is right, and what it takes.

On a machine of two GPUs, through what connects them, and the collective is NCCL's. On one GPU both have their memory
there, so that it shows whether the kernel is right; its time is that of processes that take turns on the GPU.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.engine.gpu import two_ranks
from benchmarks.engine.gpu.context import Context
from benchmarks.engine.gpu.session import Found, Skip, Wrong
from benchmarks.report import Row
from benchmarks.shapes import shape_config
from model.backends import all_reduce
from model.backends.cuda import tolerance
from model.checkpoint.weights import Share
from model.config import EngineConfig, ModelConfig
from model.kernels import cuda_graphs
from model.network.parallel import TensorParallel

ROWS = (1, 2, 8, 16, 32, 64)
CALLS = 20
"""Of one time: as in a step, one after the other."""
REPEATS = 10


def fused_all_reduce(context: Context) -> Found:
    """The largest error by rows, and microseconds of a sum and the norm behind it, both ways."""
    if context.device.type != "cuda":
        raise Skip("ranks reach each other's memory on GPUs alone")
    context.clean()
    return judged(two_ranks.by_two(_rank, context.shape), tolerance(context.dtype))


def judged(answers: dict[str, Any], most: float) -> Found:
    """Of rank 0's answers, as `compared` gives them. Raises Skip where there is no kernel, Wrong where it is off."""
    if answers["reason"] is not None:
        raise Skip(answers["reason"])
    rows: list[Row] = [("rows", "error", "collective and norm, us", "fused, us")]
    rows += [
        (str(count), f"{error:.2g}", f"{apart:.1f}", f"{fused:.1f}") for count, error, apart, fused in answers["rows"]
    ]
    metrics: dict[str, Any] = {"shares_gpu": answers["shares_gpu"]}
    for count, error, apart, fused in answers["rows"]:
        name = f"{count} rows"
        metrics |= {f"{name}, error": error, f"{name}, collective_us": apart, f"{name}, fused_us": fused}
    found = Found(metrics, rows)
    errors = torch.tensor([error for _, error, _, _ in answers["rows"]])
    if not float(errors.max()) <= most:
        raise Wrong("our fused kernel does not give what collectives give", found)
    return found


@torch.inference_mode()
def compared(group: TensorParallel, device: torch.device, dtype: torch.dtype, shape: str) -> dict[str, Any]:
    """Every rank of a group that has joined calls it at once. reason: why there is no such kernel, or None; rows: of
    each number of them the error and both times."""
    from model.kernels.all_reduce_check import Comparison, random_norm
    from model.kernels.triton_operations import TritonOperations

    all_reduce.ON_SHARED_GPUS = True
    model = ModelConfig(**shape_config(shape))
    config = EngineConfig(model=shape, all_reduce="fused", tensor_parallel_size=group.size)
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    all_reduce.logger.addHandler(handler)
    fused = all_reduce.fused_all_reduce(config, Share(model, group, device, dtype), tolerance(dtype))
    answers: dict[str, Any] = {"reason": said[-1] if fused is None else None, "shares_gpu": group.shares_gpu}
    if fused is None:
        return answers
    norm = random_norm(model.n_embd, dtype, device)
    comparison = Comparison(fused, group, norm, dtype, device, all_reduce.PATIENCE)
    rows = []
    for count in (count for count in ROWS if count <= fused.most_rows):
        error = comparison.max_error(count)
        x, part = torch.zeros(2, count, model.n_embd, dtype=dtype, device=device)
        ways = [
            _microseconds(partial(operations.reduce_add_norm, x, part, norm, group), group, device)
            for operations in (TritonOperations(), TritonOperations(fused=fused))
        ]
        rows.append([count, error, *ways])
    return {**answers, "rows": rows}


def _microseconds(work: Callable[[], tuple[torch.Tensor, ...]], group: TensorParallel, device: torch.device) -> float:
    """Of one of many calls, as many on all ranks; from a recorded graph, where ranks' collectives can be recorded."""

    def calls() -> torch.Tensor:
        for _ in range(CALLS - 1):
            work()
        return work()[0]

    run = cuda_graphs.record(calls) if device.type == "cuda" and not group.shares_gpu else calls
    run()
    seconds = []
    for _ in range(REPEATS if device.type == "cuda" else 1):
        group.all_reduce(torch.zeros(1, device=device)).item()  # together
        started = time.perf_counter()
        run().sum().item()
        seconds.append(time.perf_counter() - started)
    cuda_graphs.leave_pool()
    return 1e6 * min(seconds) / CALLS


def _rank(shape: str, number: int, pipe: Connection) -> None:
    """The process of a rank, as `two_ranks.by_two` starts it."""
    with two_ranks.told(pipe):
        device = torch.device("cuda", number % torch.cuda.device_count())
        torch.cuda.set_device(device)
        group = TensorParallel(number, 2)
        if number == 0:
            pipe.send(group.listen())
        group.join("" if number == 0 else pipe.recv(), device)
        answers = compared(group, device, torch.bfloat16, shape)
        if number == 0:
            pipe.send(answers)
        group.close()
