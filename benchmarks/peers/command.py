"""`python -m benchmarks peers`: other engines beside ours, with the same checkpoint, prompts and threads.

`--install` makes the peers' environments first. What cannot be installed or does not run stands in the table with
its reason.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.engine.speculation import KINDS
from benchmarks.peers.checkpoint import write_checkpoint
from benchmarks.peers.comparison import Measured, RunError, compare, comparison_table, medians, run_worker, state_table
from benchmarks.peers.engines import OURS, PEERS, Engine
from benchmarks.peers.environments import prepare, python_of
from benchmarks.peers.http import command as http
from benchmarks.peers.workloads import WORKLOADS, Workload
from benchmarks.peers.writing import RESULTS, write
from benchmarks.quality.stop_rules import CORPUS, held_out
from benchmarks.report import Result
from benchmarks.shapes import SHAPES, shape_config
from model.checkpoint.hub import PICO, resolve_checkpoint
from model.text.tokenizer import Tokenizer

PICTURE = "each engine's medians"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--install", action="store_true", help="make the environments that are missing")
    parser.add_argument("--install-only", action="store_true", help="make them and stop")
    parser.add_argument("--peers", nargs="*", choices=[p.name for p in PEERS], default=[p.name for p in PEERS])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="164m")
    parser.add_argument("--workloads", nargs="+", choices=[w.name for w in WORKLOADS], help="default: all")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="whose held-out files are replayed")
    parser.add_argument("--cases", type=int, default=6, help="texts of each kind that are replayed")
    parser.add_argument("--max-tokens", type=int, default=128, help="of one text")
    parser.add_argument("--rounds", type=int, default=3, help="times every engine is started")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of a workload in a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds for one engine in one round")
    parser.add_argument("--install-timeout", type=float, default=3600.0, help="seconds for one step of pip")
    parser.add_argument("--index", action="append", default=[], help="another package index, such as one of CPU builds")
    parser.add_argument("--folder", type=Path, default=Path("runs/peers"), help="environments and checkpoints")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where NAME.json and NAME.md are written")
    parser.add_argument("--name", help="of the result (default: peers-SHAPE, with --http peers-http-SHAPE)")
    http.add_arguments(parser)


def run(options: argparse.Namespace) -> Result:
    folder = options.folder.resolve()
    chosen = [p for p in PEERS if p.name in options.peers and (not options.http or http.served(p.name))]
    engines = [Measured(OURS), *(Measured(p) for p in chosen)]
    _prepare(engines[1:], folder, options)
    if options.install_only:
        return Result("peers", {}, {}, tables={"environments": state_table(engines[1:])})
    if options.http:
        return http.run(options, {m.engine.name: m.reason for m in engines[1:]})
    workloads = [_with_texts(w, options) for w in WORKLOADS if options.workloads is None or w.name in options.workloads]
    checkpoint = write_checkpoint(folder / "checkpoints" / options.shape, shape_config(options.shape), options.seed)
    spec = worker_spec(checkpoint, workloads, options)

    def once(engine: Engine) -> dict[str, Any]:
        python = Path(sys.executable) if engine == OURS else python_of(folder / engine.name)
        scratch = folder / "scratch" / options.shape / engine.name
        return run_worker(engine, python, spec, scratch, options.timeout)

    compare(engines, options.rounds, once, lambda line: print(line, file=sys.stderr, flush=True))
    if engines[0].reason is not None:
        raise RunError(f"our own engine {engines[0].reason}")
    result = to_result(engines, workloads, options)
    write(result, options.results, options.name or f"peers-{options.shape}")
    return result


def _with_texts(workload: Workload, options: argparse.Namespace) -> Workload:
    """A replay with the texts that `python -m benchmarks speculation` writes."""
    if workload.kind != "replay":
        return workload
    sources, _ = held_out([], options.corpus)
    tokenizer = Tokenizer.from_checkpoint(resolve_checkpoint(PICO, None))
    cases = KINDS[workload.name.removesuffix("-1")](sources, tokenizer, options)
    return replace(workload, texts=tuple({"prompt": c.prompt, "output": c.output} for c in cases))


def _prepare(peers: list[Measured], folder: Path, options: argparse.Namespace) -> None:
    """Give a reason to every peer without an environment."""
    make = options.install or options.install_only
    for peer in peers:
        if make:
            print(f"installing {peer.engine.name}", file=sys.stderr, flush=True)
        peer.reason = prepare(
            peer.engine,
            folder / peer.engine.name,
            make=make,
            torch=importlib.metadata.version("torch"),
            indexes=options.index,
            timeout_s=options.install_timeout,
        )


def worker_spec(checkpoint: Path, workloads: list[Workload], options: argparse.Namespace) -> dict[str, Any]:
    """What the worker is told, but for what differs between engines."""
    vocab_size = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    return {
        "checkpoint": str(checkpoint),
        "threads": options.threads,
        "dtype": options.dtype,
        "max_requests": max(w.requests for w in workloads),
        "max_len": max(w.longest for w in workloads) + 1,
        "token_range": [min(100, vocab_size // 2), vocab_size],
        "workloads": [w.to_json() for w in workloads],
        "repeats": options.repeats,
        "seed": options.seed,
    }


def to_result(engines: list[Measured], workloads: list[Workload], options: argparse.Namespace) -> Result:
    kept = ("shape", "rounds", "repeats", "threads", "dtype", "seed")
    asked = [{k: v for k, v in w.to_json().items() if k != "texts"} for w in workloads]
    settings = {**{name: getattr(options, name) for name in kept}, "workloads": asked}
    return Result(
        "peers",
        settings,
        {},
        tables={
            f"{options.shape}, {options.dtype}, {options.threads} threads, medians": comparison_table(
                engines, workloads
            ),
            "engines": state_table(engines),
        },
        bars={f"{w.name}, {w.unit}": medians(engines, w) for w in workloads},
        details=[m.to_json() for m in engines],
    )
