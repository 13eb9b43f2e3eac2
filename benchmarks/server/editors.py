"""`python -m benchmarks editors`: how many people who type one server answers in time, by model and prompt order.

For each cell of the table a server of its own, with an empty cache, and `keystrokes` on it. What is finished is kept in
`--work`: the same command goes on where it was broken off.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import Result, Row, number
from benchmarks.server import keystrokes
from benchmarks.servers import real
from benchmarks.shapes import SHAPES, write_config
from model.pico import CHECKPOINT

COLUMNS = {
    "requests": "pauses",
    "percent_line_in_time": "line within 1 s, %",
    "percent_shown": "line before the next key, %",
    "p50_ttft_ms": "TTFT p50, ms",
    "p95_ttft_ms": "p95",
    "p50_time_to_first_line_ms": "line p50, ms",
    "percent_prompt_cached_server": "cached, %",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--editors", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="people at once")
    parser.add_argument(
        "--models", nargs="+", default=["pico", "164m"], help=f"checkpoints, or noise of a shape: {', '.join(SHAPES)}"
    )
    parser.add_argument("--orders", nargs="+", choices=("auto", "psm", "spm"), default=["auto"])
    parser.add_argument("--lines", type=int, default=12, help="that each of them types")
    parser.add_argument("--max-tokens", type=int, default=48, help="of an answer; noise ends no line before")
    parser.add_argument("--session", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--serve-options", default="", help="of `starcoder serve`, in quotes")
    parser.add_argument("--work", type=Path, default=Path("build/editors"), help="cells that are finished")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> Result:
    """Raises ValueError for options that make no sense, RuntimeError where a server does not start or answer."""
    options.work.mkdir(parents=True, exist_ok=True)
    cells = [(model, order, count) for model in options.models for order in options.orders for count in options.editors]
    rows: list[Row] = [("model", "order", "editors", *COLUMNS.values())]
    details = []
    for model, order, count in cells:
        found = _cell(options, model, order, count)
        details.append({"model": model, "order": order, "editors": count, **found})
        rows.append((model, order, str(count), *(number(found.get(name)) for name in COLUMNS)))
    names = ("editors", "models", "orders", "lines", "max_tokens", "session", "serve_options", "seed")
    settings = {name: getattr(options, name) for name in names}
    return Result("editors", settings, {}, tables={"people who type": rows}, details=details)


def _cell(options: argparse.Namespace, model: str, order: str, count: int) -> dict[str, Any]:
    """The metrics of `keystrokes`; at once where they are known."""
    arguments = ["--editors", count, "--lines", options.lines, "--max-tokens", options.max_tokens]
    arguments += ["--seed", options.seed, "--fim-mode", order, "--session" if options.session else "--no-session"]
    told = [model, options.serve_options, *map(str, arguments)]
    name = f"{Path(model).name}-{order}-{count}-{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:8]}"
    kept = options.work / f"{name}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())["metrics"]
        return found
    print(f"{model}, {order}, {count} editors", file=sys.stderr, flush=True)
    parser = argparse.ArgumentParser()
    keystrokes.add_arguments(parser)
    with real([*_checkpoint(options, model), *shlex.split(options.serve_options)]) as server:
        url = f"http://127.0.0.1:{server.port}"
        result = asyncio.run(keystrokes.measure(parser.parse_args([*map(str, arguments), "--url", url])))
    result.write(kept)
    return result.metrics


def _checkpoint(options: argparse.Namespace, model: str) -> list[str]:
    """The server's options for a model: noise in a known shape has pico's tokenizer."""
    if model not in SHAPES:
        return ["--model", model]
    directory = write_config(options.work.resolve() / model, model)
    shutil.copy(CHECKPOINT / "tokenizer.json", directory)
    return ["--model", str(directory), "--load-format", "random"]
