"""`python -m benchmarks collectives`: what ranks on one machine without GPUs take to add up what each of them has.

Each layer of a step has two such sums. Our star of sockets is for small tensors, gloo for large ones
(`model.network.star.MOST_BYTES`).
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

import torch

from benchmarks.report import Result, Row, number
from model.network import star
from model.network.parallel import TensorParallel

ROUNDS = 5
"""Of which the median counts."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--width", type=int, default=6144, help="values of a row, as a model's layers hand on")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024])
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--milliseconds", type=float, default=200, help="about so long each round")


def run(options: argparse.Namespace) -> Result:
    """Raises ValueError for a group of one."""
    if min(options.ranks) < 2:
        raise ValueError("--ranks: one rank has nobody to talk to")
    metrics: dict[str, float] = {}
    tables: dict[str, list[Row]] = {}
    for ranks in options.ranks:
        rows: list[Row] = [("rows", "KiB", "star, us", "gloo, us", "gloo / star")]
        for count, found in zip(options.rows, _measured(ranks, options), strict=True):
            kib = count * options.width * getattr(torch, options.dtype).itemsize / 1024
            rows.append((str(count), number(kib), *map(number, found.values()), number(found["gloo"] / found["star"])))
            metrics |= {f"{ranks} ranks, {count} rows: {way}_us": us for way, us in found.items()}
        tables[f"{ranks} ranks"] = rows
    settings = {name: getattr(options, name) for name in ("ranks", "width", "rows", "dtype")}
    return Result("collectives", settings, metrics, tables=tables, shows_metrics=False)


def _measured(ranks: int, options: argparse.Namespace) -> list[dict[str, float]]:
    """Microseconds of a sum, by its way, for each number of rows. Raises RuntimeError where a rank ends."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(ranks)]
    processes = [
        context.Process(target=_rank, args=(rank, ranks, options, theirs)) for rank, (_, theirs) in enumerate(pipes)
    ]
    for process, (_, theirs) in zip(processes, pipes, strict=True):
        process.start()
        theirs.close()  # one that has ended is not waited for
    try:
        address = pipes[0][0].recv()
        for ours, _ in pipes:
            ours.send(address)
        found: list[dict[str, float]] = pipes[0][0].recv()
        for process in processes:
            process.join()
    except (EOFError, ConnectionError) as error:
        raise RuntimeError("a rank has ended, with what it says above") from error
    finally:
        for process in processes:
            process.kill()
    return found


def _rank(rank: int, size: int, options: argparse.Namespace, pipe: Connection) -> None:
    torch.set_num_threads(1)
    group = TensorParallel(rank, size)
    if rank == 0:
        pipe.send(group.listen())
    group.join(pipe.recv(), torch.device("cpu"))
    found = []
    for rows in options.rows:
        tensor = torch.zeros(rows, options.width, dtype=getattr(torch, options.dtype))
        ways = {}
        for way, most_bytes in (("star", tensor.nbytes), ("gloo", 0)):
            star.MOST_BYTES = most_bytes
            ways[way] = 1e6 * _seconds(group, tensor, options.milliseconds / 1000)
        found.append(ways)
    if rank == 0:
        pipe.send(found)
    group.close()


def _seconds(group: TensorParallel, tensor: torch.Tensor, wanted: float) -> float:
    """Of one sum. wanted: of a round; how many sums that are, rank 0 tells the others."""
    one = _timed(group, tensor, 3)
    repeats = torch.tensor([max(int(wanted / one), 1)])
    group.broadcast(repeats)
    return statistics.median(_timed(group, tensor, int(repeats)) for _ in range(ROUNDS))


def _timed(group: TensorParallel, tensor: torch.Tensor, repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        group.all_reduce(tensor)
    return (time.perf_counter() - began) / repeats
