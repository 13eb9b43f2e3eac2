"""`python -m benchmarks peers --http`: our server and others' under the same load, each started in turn."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.peers.checkpoint import write_checkpoint, write_tokenizer
from benchmarks.peers.comparison import RunError
from benchmarks.peers.environments import last_words, versions_of
from benchmarks.peers.http.loads import make_load
from benchmarks.peers.http.servers import OTHERS, US, Contender, Setup, serving
from benchmarks.peers.http.table import Heard, to_result
from benchmarks.peers.writing import write
from benchmarks.report import Result
from benchmarks.servers import Server
from benchmarks.shapes import shape_config
from benchmarks.stack.measuring import observe

Say = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("over HTTP")
    group.add_argument("--http", action="store_true", help="instead: API servers, and streams that ask all the time")
    group.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 64], help="open at once")
    group.add_argument("--prompt-tokens", type=int, default=256, help="random ids")
    group.add_argument("--tokens", type=int, default=64, help="of each answer")
    group.add_argument("--seconds", type=float, default=20.0, help="measured, of each load in a round")
    group.add_argument("--warmup", type=float, default=2.0, help="seconds before them, and until each has an answer")
    group.add_argument("--serve-options", default="", help="more of `starcoder serve`, in quotes")


def served(name: str) -> bool:
    """Whether this peer has a server here."""
    return any(contender.engine.name == name for contender in OTHERS)


def run(options: argparse.Namespace, reasons: dict[str, str | None]) -> Result:
    """reasons: of the peers, why one cannot be run, or None. Raises ValueError and RunError."""
    if min(*options.streams, options.prompt_tokens, options.tokens) < 1 or options.seconds <= 0 or options.warmup < 0:
        raise ValueError("streams and tokens must be at least 1, seconds above 0, warmup no less than 0")
    folder = options.folder.resolve()
    checkpoint = write_checkpoint(folder / "checkpoints" / options.shape, shape_config(options.shape), options.seed)
    vocab_size = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    write_tokenizer(checkpoint, vocab_size)  # one that was written by an earlier release may lack ids
    heard = [Heard(US.engine)]
    heard += [Heard(c.engine, reasons[c.engine.name]) for c in OTHERS if c.engine.name in reasons]
    compare(
        heard,
        [US, *OTHERS],
        folder,
        make_setup(checkpoint, options),
        range(min(100, vocab_size // 2), vocab_size),
        options,
    )
    if heard[0].reason is not None:
        raise RunError(f"our own server {heard[0].reason}")
    result = to_result(heard, options)
    write(result, options.results, options.name or f"peers-http-{options.shape}")
    return result


def make_setup(checkpoint: Path, options: argparse.Namespace) -> Setup:
    longest = options.prompt_tokens + options.tokens + 1
    return Setup(checkpoint, options.dtype, options.threads, longest, max(options.streams), options.serve_options)


def compare(
    heard: Sequence[Heard],
    contenders: Sequence[Contender],
    folder: Path,
    setup: Setup,
    ids: range,
    options: argparse.Namespace,
    say: Say = lambda line: print(line, file=sys.stderr, flush=True),
) -> None:
    """Every server once a round, each round beginning with another one. One that fails is left out afterwards."""
    by_name = {contender.engine.name: contender for contender in contenders}
    for turn in range(options.rounds):
        shift = turn % len(heard)
        for one in [*heard[shift:], *heard[:shift]]:
            if one.reason is not None:
                continue
            say(f"round {turn + 1} of {options.rounds}: {one.engine.name}")
            contender = by_name[one.engine.name]
            try:
                with serving(contender, folder, setup, options.timeout) as (server, seconds):
                    one.ready_seconds.append(seconds)
                    one.versions = one.versions or versions_of(contender.python(folder), one.engine.packages)
                    _measure(server, one, ids, f"{options.seed}-{turn}", options, say)
            except RuntimeError as error:
                one.reason = f"failed: {last_words(str(error), [setup.checkpoint, folder])}"
                say(f"  {error}")


def _measure(server: Server, one: Heard, ids: range, seed: str, options: argparse.Namespace, say: Say) -> None:
    for streams in options.streams:
        say(f"  {streams} streams")
        load = make_load(
            server.port,
            streams,
            tokens=(options.prompt_tokens, options.tokens),
            ids=ids,
            seed=seed,
            warmup=options.warmup,
            seconds=options.seconds,
        )
        one.add(streams, observe(server, load))
