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
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.closed import closed
from benchmarks.report import Result, Row, number
from benchmarks.servers import Server, real

TEAMS = ("quiet", "loud")
FULL = ("--max-num-seqs", "16", "--max-queued-requests", "64")
"""Small enough that the flood of one client process fills it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="pico", help="checkpoint to serve")
    parser.add_argument("--streams", type=int, default=128, help="requests that the flood keeps open")
    parser.add_argument("--prompt-tokens", type=int, default=256, help="of each request of the flood")
    parser.add_argument("--max-tokens", type=int, default=64, help="of each answer of the flood")
    parser.add_argument("--rate", type=float, default=2.0, help="requests a second of the quiet key")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--serve-options", default=shlex.join(FULL), help="of `starcoder serve`, in quotes")
    parser.add_argument("--seed", type=int, default=0)


@dataclass
class Seen:
    """Of one key. first_tokens: seconds from the request until there was one; refused: answers with 429."""

    first_tokens: list[float] = field(default_factory=list)
    tokens: int = 0
    refused: int = 0


class Client:
    """Asks with one key."""

    def __init__(self, server: Server, key: str, options: argparse.Namespace) -> None:
        self._url = f"http://127.0.0.1:{server.port}"
        self._headers = {"authorization": f"Bearer {key}"}
        self._options = options
        self._random = random.Random(options.seed)
        self.seen = Seen()
        self.filled = asyncio.Event()  # somebody was refused, or as many have had an answer as there are streams

    async def ask(self, http: httpx.AsyncClient, prompt_tokens: int, max_tokens: int) -> None:
        body: dict[str, Any] = {
            "prompt": [self._random.randrange(300, 900) for _ in range(prompt_tokens)],
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        asked_at = time.perf_counter()
        async with http.stream("POST", f"{self._url}/v1/completions", json=body, headers=self._headers) as answer:
            if answer.status_code == 429:
                self.seen.refused += 1
                return
            answer.raise_for_status()
            first = True
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                if "error" in json.loads(line[6:]):
                    self.seen.refused += 1  # displaced from a full queue
                    return
                if first:
                    self.seen.first_tokens.append(time.perf_counter() - asked_at)
                    first = False
            self.seen.tokens += max_tokens
            if len(self.seen.first_tokens) >= self._options.streams:
                self.filled.set()

    async def flood(self, http: httpx.AsyncClient) -> None:
        """Until cancelled, so many streams: whoever is refused asks again a little later."""

        async def one() -> None:
            while True:
                before = self.seen.refused
                await self.ask(http, self._options.prompt_tokens, self._options.max_tokens)
                if self.seen.refused > before:
                    self.filled.set()
                    await asyncio.sleep(self._random.uniform(0.05, 0.2))

        async with asyncio.TaskGroup() as group:
            for _ in range(self._options.streams):
                group.create_task(one())

    async def type(self, http: httpx.AsyncClient) -> None:
        """A short request every so often, however the one before does."""
        deadline = time.perf_counter() + self._options.seconds
        async with asyncio.TaskGroup() as group:
            while time.perf_counter() < deadline:
                group.create_task(self.ask(http, 32, 8))
                await asyncio.sleep(self._random.expovariate(self._options.rate))


def run(options: argparse.Namespace) -> Result:
    """Raises RuntimeError where the server does not start, httpx.HTTPError where it fails."""
    with tempfile.TemporaryDirectory(prefix="starcoder-flood-") as directory:
        closing = closed(Path(directory), TEAMS)
        quiet, loud = closing.keys
        arguments = ["--model", options.model, *shlex.split(options.serve_options)]
        found: dict[str, tuple[Seen, Seen]] = {}
        with real(arguments, closing.environment) as server:
            for name, flooding in (("nobody floods", None), ("the same team", quiet), ("another team", loud)):
                print(f"  {name}", file=sys.stderr, flush=True)
                found[name] = asyncio.run(_load(server, options, quiet, flooding))
    return _result(options, found)


async def _load(server: Server, options: argparse.Namespace, quiet: str, flooding: str | None) -> tuple[Seen, Seen]:
    typist, flood = Client(server, quiet, options), Client(server, flooding or "", options)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=300, limits=limits) as http:
        await typist.ask(http, 32, 8)
        typist.seen = Seen()
        flooder = asyncio.create_task(flood.flood(http)) if flooding is not None else None
        if flooder is not None:
            await flood.filled.wait()
        flood.seen = Seen()
        await typist.type(http)
        if flooder is not None:
            flooder.cancel()
            with suppress(asyncio.CancelledError):
                await flooder
    return typist.seen, flood.seen


def _result(options: argparse.Namespace, found: dict[str, tuple[Seen, Seen]]) -> Result:
    metrics: dict[str, Any] = {}
    rows: list[Row] = [
        ("who floods", "quiet: TTFT p50 ms", "p99", "answered", "refused", "flood: tokens/s", "answered", "refused")
    ]
    for name, (quiet, flood) in found.items():
        p50, p99 = (1000 * float(np.percentile(quiet.first_tokens, share)) for share in (50, 99))
        rate = flood.tokens / options.seconds
        counts = (len(quiet.first_tokens), quiet.refused, rate, len(flood.first_tokens), flood.refused)
        rows.append((name, number(p50), number(p99), *map(number, counts)))
        metrics |= {
            f"{name}: quiet_ttft_p50_ms": p50,
            f"{name}: quiet_ttft_p99_ms": p99,
            f"{name}: quiet_answered": len(quiet.first_tokens),
            f"{name}: quiet_refused": quiet.refused,
            f"{name}: flood_tokens_per_s": rate,
        }
    hidden = ("run", "output", "plot", "command")
    settings = {key: value for key, value in vars(options).items() if key not in hidden}
    return Result("flood", settings, metrics, tables={"two keys": rows}, shows_metrics=False)
