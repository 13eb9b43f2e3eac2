"""`python -m benchmarks gpu`: everything that a GPU has to show, in one process that ends when its time is up.

First the kernels against their definition on this device, then the 15.5B shape with random weights, loaded once and
measured in many ways. After each measurement the result is written anew, so that whatever ends the process leaves a
result that says what was done, what failed and how, and what was not tried.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine.gpu.context import Context
from benchmarks.engine.gpu.plan import measurements
from benchmarks.engine.gpu.session import Entry, Session, taken_up
from benchmarks.report import Result, Row, number
from benchmarks.shapes import SHAPES

SHOWN = 4
"""Metrics of a measurement that its line tells."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(output=Path("runs/gpu.json"))
    parser.add_argument("--shape", choices=sorted(SHAPES), default="15b")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: small sizes, to try the command"
    )
    parser.add_argument("--budget", type=float, default=420.0, help="seconds; what does not fit is skipped, and named")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="measurements whose names hold one of these texts")
    parser.add_argument(
        "--skip", nargs="+", metavar="TEXT", default=[], help="measurements whose names hold one of them"
    )
    parser.add_argument("--resume", action="store_true", help="go on with what --output holds, written by this command")


def run(options: argparse.Namespace) -> Result:
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device("cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no GPU; --device cpu tries the command itself")
    settings = {"shape": options.shape, "budget": options.budget, "device": options.device}
    result = Result("gpu", {**settings, **describe(device)}, {})
    resumes = options.resume and options.output.is_file()
    before = taken_up(json.loads(options.output.read_text())["details"]) if resumes else []
    context = Context(device, options.shape)
    printed = {entry.name for entry in before}
    started = time.monotonic()

    def keep(entries: list[Entry]) -> None:
        fill(result, entries)
        result.write(options.output)
        for entry in entries:
            if entry.status != "running" and entry.name not in printed:
                printed.add(entry.name)
                print(f"{time.monotonic() - started:6.1f} s  {entry.name}: {line(entry)}", flush=True)

    session = Session(options.budget, keep, clean=context.clean, restart=restart, before=before)
    plan = measurements(context)
    wanted = [m for m in plan if options.only is None or any(text in m.name for text in options.only)]
    wanted = [m for m in wanted if not any(text in m.name for text in options.skip)]
    needed = {m.needs for m in wanted}
    session.run([m for m in plan if m in wanted or m.name in needed])
    return result


def restart(left: float) -> None:
    """Go on in a new process: a GPU's errors stay with the one that made them. Does not return."""
    for child in multiprocessing.active_children():
        child.kill()
    print("       go on in a new process", flush=True)
    # the last of two options of one name counts
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], "--resume", "--budget", f"{left:.0f}"])


def fill(result: Result, entries: list[Entry]) -> None:
    """Put what is known by now into the result."""
    result.details = [entry.to_json() for entry in entries]
    head: Row = ("measurement", "seconds", "")
    result.tables = {"all of it": [head, *((e.name, f"{e.seconds:.1f}", e.status) for e in entries)]}
    result.tables |= {entry.name: entry.rows for entry in entries if entry.rows}


def line(entry: Entry) -> str:
    """What became of it, in a line."""
    shown = ", ".join(f"{name}={number(value)}" for name, value in list(entry.metrics.items())[:SHOWN])
    if entry.status == "done":
        return shown
    words = entry.said.strip().splitlines()
    return f"{entry.status.upper()}: {words[-1] if words else ''}" + (f" ({shown})" if shown else "")


def describe(device: torch.device) -> dict[str, Any]:
    """The GPU, and the driver and CUDA under it; nothing of a CPU, which every result describes."""
    if device.type != "cuda":
        return {}
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name,
        "memory_gb": properties.total_memory / 1e9,
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        **_driver(),
    }


def _driver() -> dict[str, str]:
    fields = ("driver_version", "clocks.max.sm", "clocks.max.memory", "power.limit")
    command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return {"driver_version": f"unknown: {type(error).__name__}"}
    return dict(zip(fields, (word.strip() for word in done.stdout.split(",")), strict=False))
