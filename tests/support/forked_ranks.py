"""A tensor-parallel group of forks of this process, which has imported what they need, as `triton_forks` has.

Unlike threads (`thread_ranks`) they run at once, so that kernels of theirs can wait for each other.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from model.network.parallel import TensorParallel

PATIENCE_S = 600.0
CPU = torch.device("cpu")


def as_processes(size: int, work: Callable[[TensorParallel], Any], stripes: int = 1) -> list[Any]:
    """What each rank's `work` returns, JSON. Raises RuntimeError with what the first one says that fails."""
    host = TensorParallel()  # of the store: its threads are of this process, not of a fork
    address = host.listen()
    ranks = [_forked(TensorParallel(rank, size, stripes), address, work) for rank in range(size)]
    try:
        return _answers([pipe for _, pipe in ranks])
    finally:
        for process, pipe in ranks:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            os.close(pipe)
        host.close()


def _forked(group: TensorParallel, address: str, work: Callable[[TensorParallel], Any]) -> tuple[int, int]:
    """The process, and where it answers."""
    ours, theirs = os.pipe()
    if process := os.fork():
        os.close(theirs)
        return process, ours
    try:
        group.join(address, CPU)
        answer = {"answer": work(group)}
    except BaseException:
        answer = {"error": traceback.format_exc()}
    try:
        with os.fdopen(theirs, "w") as pipe:
            json.dump(answer, pipe)
        if "answer" in answer:
            group.close()
    finally:
        os._exit(0)


def _answers(pipes: list[int]) -> list[Any]:
    said: dict[int, bytes] = dict.fromkeys(pipes, b"")
    open_, waits = set(pipes), select.poll()
    for pipe in pipes:
        waits.register(pipe, select.POLLIN)
    deadline = time.monotonic() + PATIENCE_S
    while open_:
        ready = waits.poll(1000 * max(deadline - time.monotonic(), 0))
        if not ready:
            raise TimeoutError(f"{len(open_)} of {len(pipes)} ranks have not answered")
        for pipe, _ in ready:
            if more := os.read(pipe, 1 << 16):
                said[pipe] += more
                continue
            waits.unregister(pipe)
            open_.remove(pipe)
            if "error" in (answer := json.loads(said[pipe] or '{"error": "ended"}')):
                raise RuntimeError(answer["error"])
    return [json.loads(said[pipe])["answer"] for pipe in pipes]


def yield_while_waiting(delays: random.Random | None = None, share: float = 0.0, longest_s: float = 0.0) -> None:
    """Of Triton's interpreter in this process: who polls gives way to those it waits for.

    delays: before a share of what it does with memory it sleeps, up to so long.
    """
    from triton.runtime.interpreter import InterpreterBuilder

    def wrapped(name: str, gives_way: bool) -> None:
        real = getattr(InterpreterBuilder, name)

        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            if delays is not None and delays.random() < share:
                time.sleep(delays.random() * longest_s)
            elif gives_way:
                os.sched_yield()
            return real(self, *arguments, **options)

        setattr(InterpreterBuilder, name, call)

    wrapped("create_atomic_rmw", gives_way=True)
    for name in ("create_masked_load", "create_masked_store"):
        wrapped(name, gives_way=False)
