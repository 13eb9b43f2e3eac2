"""`python -m benchmarks flood`: two keys on a real server, one of which floods it: what the other one waits for.

The same load three times on one server: nobody floods; the flood comes with a key of the same team, so that who came
first is served first; it comes with a key of another team.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np

from benchmarks.closed import closed
from benchmarks.report import Result, Row, number
from benchmarks.servers import ROOT, Server, real

TEAMS = ("quiet", "loud")
FULL = ("--max-num-seqs", "4", "--max-queued-requests", "64")
"""Small enough that the engine is what one waits for, and that one client process fills its queue."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="pico", help="checkpoint to serve")
    parser.add_argument("--streams", type=int, default=96, help="requests that the flood keeps open")
    parser.add_argument("--prompt-tokens", type=int, default=512, help="of each request of the flood")
    parser.add_argument("--max-tokens", type=int, default=256, help="of each answer of the flood")
    parser.add_argument("--rate", type=float, default=2.0, help="requests a second of the quiet key")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--serve-options", default=shlex.join(FULL), help="of `starcoder serve`, in quotes")
    parser.add_argument("--seed", type=int, default=0)


class Load(msgspec.Struct):
    """What a process of the flood is told."""

    url: str
    key: str
    streams: int
    prompt_tokens: int
    max_tokens: int
    seed: int


@dataclass
class Flooded:
    """What came of it. refused: answers with 429, displaced ones among them."""

    answered: int = 0
    refused: int = 0


@dataclass
class Waited:
    """Of the quiet key. first_tokens: seconds from each request until there was one."""

    first_tokens: list[float] = field(default_factory=list)
    refused: int = 0


def body(generator: random.Random, prompt_tokens: int, max_tokens: int, **more: Any) -> dict[str, Any]:
    prompt = [generator.randrange(300, 900) for _ in range(prompt_tokens)]
    return {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, **more}


async def flood(load: Load) -> None:
    """In a process of its own, so that what the quiet key waits for is the server; until its input is closed.

    Prints a line when the server is full: somebody was refused, or there were as many answers as streams. At the end,
    what came of it since then.
    """
    found, full, generator = Flooded(), asyncio.Event(), random.Random(load.seed)
    limits = httpx.Limits(max_connections=None)
    headers = {"authorization": f"Bearer {load.key}"}

    async def one(http: httpx.AsyncClient) -> None:
        while True:
            asked = body(generator, load.prompt_tokens, load.max_tokens)
            answer = await http.post("/v1/completions", json=asked)
            if answer.status_code == 429:
                found.refused += 1
                await asyncio.sleep(generator.uniform(0.1, 0.3))
            else:
                answer.raise_for_status()
                found.answered += 1
            if found.refused or found.answered >= load.streams:
                full.set()

    async with (
        httpx.AsyncClient(base_url=load.url, headers=headers, timeout=300, limits=limits) as http,
        asyncio.TaskGroup() as group,
    ):
        streams = [group.create_task(one(http)) for _ in range(load.streams)]
        await full.wait()
        before = Flooded(found.answered, found.refused)
        print("full", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        print(json.dumps([found.answered - before.answered, found.refused - before.refused]), flush=True)
        for stream in streams:
            stream.cancel()


async def quiet(url: str, key: str, options: argparse.Namespace) -> Waited:
    """A short request every so often, however the one before does."""
    found, generator = Waited(), random.Random(options.seed)
    headers = {"authorization": f"Bearer {key}"}

    async def one(http: httpx.AsyncClient) -> None:
        asked, asked_at = body(generator, 32, 8, stream=True), time.perf_counter()
        async with http.stream("POST", "/v1/completions", json=asked) as answer:
            if answer.status_code == 429:
                found.refused += 1
                return
            answer.raise_for_status()
            lines = answer.aiter_lines()
            async for line in lines:
                if line.startswith("data: {"):
                    found.first_tokens.append(time.perf_counter() - asked_at)
                    break
            async for _ in lines:
                pass

    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=300) as http:
        await one(http)
        found.first_tokens.clear()
        deadline = time.perf_counter() + options.seconds
        async with asyncio.TaskGroup() as group:
            while time.perf_counter() < deadline:
                group.create_task(one(http))
                await asyncio.sleep(generator.expovariate(options.rate))
    return found


def run(options: argparse.Namespace) -> Result:
    """Raises RuntimeError where the server or the flood does not start, httpx.HTTPError where it fails."""
    with tempfile.TemporaryDirectory(prefix="starcoder-flood-") as directory:
        closing = closed(Path(directory), TEAMS)
        ours, theirs = closing.keys
        arguments = ["--model", options.model, *shlex.split(options.serve_options)]
        found: dict[str, tuple[Waited, Flooded]] = {}
        with real(arguments, closing.environment) as server:
            for name, key in (("nobody floods", None), ("the same team", ours), ("another team", theirs)):
                print(f"  {name}", file=sys.stderr, flush=True)
                found[name] = _load(server, options, ours, key)
    return _result(options, found)


def _load(server: Server, options: argparse.Namespace, key: str, flooding: str | None) -> tuple[Waited, Flooded]:
    url = f"http://127.0.0.1:{server.port}"
    if flooding is None:
        return asyncio.run(quiet(url, key, options)), Flooded()
    load = Load(url, flooding, options.streams, options.prompt_tokens, options.max_tokens, options.seed)
    command = [sys.executable, "-m", "benchmarks.server.flood", msgspec.json.encode(load).decode()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "full\n":
                raise RuntimeError("the flood ended before the server was full")
            waited = asyncio.run(quiet(url, key, options))
            said, _ = process.communicate("")
        finally:
            process.kill()
    return waited, Flooded(*json.loads(said))


def _result(options: argparse.Namespace, found: dict[str, tuple[Waited, Flooded]]) -> Result:
    metrics: dict[str, Any] = {}
    rows: list[Row] = [
        ("who floods", "quiet: TTFT p50 ms", "p99", "answered", "refused", "flood: tokens/s", "answered", "refused")
    ]
    for name, (waited, flooded) in found.items():
        p50, p99 = (1000 * float(np.percentile(waited.first_tokens, share)) for share in (50, 99))
        rate = flooded.answered * options.max_tokens / options.seconds
        counts = (len(waited.first_tokens), waited.refused, rate, flooded.answered, flooded.refused)
        rows.append((name, number(p50), number(p99), *map(number, counts)))
        metrics |= {
            f"{name}: quiet_ttft_p50_ms": p50,
            f"{name}: quiet_ttft_p99_ms": p99,
            f"{name}: quiet_answered": len(waited.first_tokens),
            f"{name}: quiet_refused": waited.refused,
            f"{name}: flood_tokens_per_s": rate,
        }
    hidden = ("run", "output", "plot", "command")
    settings = {key: value for key, value in vars(options).items() if key not in hidden}
    return Result("flood", settings, metrics, tables={"two keys": rows}, shows_metrics=False)


if __name__ == "__main__":
    asyncio.run(flood(msgspec.json.decode(sys.argv[1], type=Load)))
