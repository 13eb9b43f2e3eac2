"""`python -m benchmarks stack`: what everything around the engine takes, and how fast it can be."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.closed import closed
from benchmarks.report import Result
from benchmarks.servers import BASELINE, FLOOR, PRODUCT, ROOT, Server, floor, product
from benchmarks.stack import profiling
from benchmarks.stack.asking import Asking, Shape
from benchmarks.stack.comparing import Runs, result, settings
from benchmarks.stack.measuring import Measured, measure
from benchmarks.stack.recording import encode, record
from benchmarks.stack.table import MOST_TOKENS, Table
from model.pico import CHECKPOINT
from model.text.tokenizer import Tokenizer

PICTURE = "tokens a second of each server and load"

QUICK = {"streams": [1, 16], "seconds": 2.0, "warmup": 1.0, "busy_streams": 16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 64, 256], help="open at once")
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--prompt", choices=("text", "ids"), default="text", help="how it is sent")
    parser.add_argument("--step-ms", type=float, default=5.0, help="of the engine's steps; 0: as fast as it can")
    parser.add_argument("--busy-streams", type=int, default=64, help="of the loads that are not in --streams")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured, of each load")
    parser.add_argument("--warmup", type=float, default=2.0, help="seconds before them")
    parser.add_argument("--rounds", type=int, help="servers are started in turn; 1, with a baseline 2, if not given")
    parser.add_argument("--baseline", type=Path, metavar="CHECKOUT", help="another checkout to compare with")
    parser.add_argument("--keys", action="store_true", help="with keys and a ledger, beside the same server without")
    parser.add_argument("--serve-options", default="", help="of `starcoder serve`, in quotes")
    parser.add_argument("--no-floor", action="store_true", help="leave out the app without Ray")
    parser.add_argument("--profile", action="store_true", help="instead: which functions take the time, by process")
    parser.add_argument("--quick", action="store_true", help="a minute, to see that it works")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> Result:
    """Raises ValueError for options that make no sense, RuntimeError where a server does not start or answer."""
    if options.quick:
        vars(options).update(QUICK)
    check(options)
    tokenizer = Tokenizer.from_checkpoint(CHECKPOINT)
    table = Table.read(tokenizer)
    runs = Runs(shapes(options))

    def one(server: Server, shape: Shape) -> Measured:
        _say(f"  {shape.name}")
        return measure(server, shape, asking, table.ends, warmup=options.warmup, seconds=options.seconds)

    with tempfile.TemporaryDirectory(prefix="starcoder-stack-") as directory:
        closing = closed(Path(directory)) if options.keys else None
        key = None if closing is None else closing.keys[0]
        asking = Asking(tokenizer, options.prompt_tokens, options.prompt, options.seed, key)
        if options.profile:
            busy = busy_streams(options)
            found = profiling.profile(Path(directory), shlex.split(options.serve_options), busy, one)
            return profiling.result(settings(options), busy, *found)
        recorded = Path(directory) / "recorded.json"
        for number in range(options.rounds or (2 if options.baseline or options.keys else 1)):
            for name, tree in trees(options):
                _say(f"round {number + 1}: {name}")
                environment = closing.environment if closing is not None and name == PRODUCT else None
                with product(name, tree, shlex.split(options.serve_options), environment) as server:
                    if name == PRODUCT and not recorded.exists():
                        recorded.write_bytes(encode(record(server, asking, options.tokens)))
                    _measure(server, runs, one)
            if not options.no_floor:
                _say(f"round {number + 1}: {FLOOR}")
                with floor(recorded) as server:
                    _measure(server, runs, one)
    return result(options, runs)


def check(options: argparse.Namespace) -> None:
    if min(*options.streams, options.busy_streams, options.tokens, options.prompt_tokens) < 1:
        raise ValueError("streams, tokens and prompt-tokens must be at least 1")
    if options.tokens >= MOST_TOKENS or options.step_ms < 0 or options.seconds <= 0 or options.warmup < 0:
        raise ValueError(f"tokens must be below {MOST_TOKENS}, seconds above 0, step-ms and warmup no less than 0")
    if options.baseline is not None and not (options.baseline / "benchmarks" / "stack").is_dir():
        raise ValueError("the baseline is no checkout with this benchmark in it")


def shapes(options: argparse.Namespace) -> list[Shape]:
    """The loads, in the order in which they are run and shown."""
    busy, tokens, pace = options.busy_streams, options.tokens, options.step_ms
    return [
        Shape("/version, idle", "get", 1, 0, 0),
        *(Shape(f"{count} stream{'s' * (count > 1)}", "stream", count, tokens, pace) for count in options.streams),
        Shape(f"{busy} streams, no pause", "stream", busy, tokens, 0),
        Shape(f"{busy} whole answers", "whole", busy, tokens, pace),
        Shape(f"{busy} of one token", "stream", busy, 1, 0),
    ]


def busy_streams(options: argparse.Namespace) -> Shape:
    """The load that is profiled."""
    return Shape(f"{options.busy_streams} streams", "stream", options.busy_streams, options.tokens, options.step_ms)


def trees(options: argparse.Namespace) -> Sequence[tuple[str, Path]]:
    baseline = options.baseline or (ROOT if options.keys else None)
    return [(PRODUCT, ROOT), *([(BASELINE, baseline.resolve())] if baseline else [])]


def _measure(server: Server, runs: Runs, one: Callable[[Server, Shape], Measured]) -> None:
    for shape in runs.shapes:
        runs.add(server.name, shape, one(server, shape))


def _say(text: str) -> None:
    """Minutes pass: whoever waits sees how far it is."""
    print(text, file=sys.stderr, flush=True)
