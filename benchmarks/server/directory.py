"""`python -m benchmarks directory`: what thousands of teams and keys cost an ingress: memory, its start, a look-up."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import Result
from deployments.errors import UnauthorizedError
from deployments.teams.directory import Directory
from deployments.teams.keys import Pepper, last_four, new_key
from deployments.teams.records import Key
from deployments.teams.store import Store

PEPPER = Pepper(b"p" * 32)
LOOK_UPS = 20_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--teams", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--database", help="URL of an empty database; an SQLite file of its own if not given")


def run(options: argparse.Namespace) -> Result:
    with tempfile.TemporaryDirectory(prefix="starcoder-directory-") as directory:
        url = options.database or f"sqlite+aiosqlite:///{Path(directory) / 'teams.sqlite'}"
        metrics = asyncio.run(_measure(url, options.teams, options.keys))
    return Result("directory", {"teams": options.teams, "keys": options.keys}, metrics)


async def _measure(url: str, teams: int, keys: int) -> dict[str, Any]:
    known = await _fill(url, teams, keys)
    process, metrics = psutil.Process(), {}
    async with _opened(url) as store:
        await store.teams()  # the connection and the library are there
        before, began = process.memory_info().rss, time.perf_counter()
        directory = Directory(lambda: _there(store), lambda: PEPPER)
        held = asyncio.create_task(_longest_hold())
        await directory.refresh()
        metrics["first_reading_ms"] = 1000 * (time.perf_counter() - began)
        held.cancel()
        metrics["loop_held_ms"] = 1000 * await held
        metrics["memory_mib"] = (process.memory_info().rss - before) / 2**20
        began = time.perf_counter()
        await directory.refresh()
        metrics["nothing_new_ms"] = 1000 * (time.perf_counter() - began)
        for name in ("first_look_up_us", "look_up_us"):
            began = time.perf_counter()
            for number in range(LOOK_UPS):
                await directory.principal(known[number % len(known)])
            metrics[name] = 1e6 * (time.perf_counter() - began) / LOOK_UPS
        began = time.perf_counter()
        for _ in range(LOOK_UPS):
            with contextlib.suppress(UnauthorizedError):
                await directory.principal("sk-sc-" + "a" * 49)
        metrics["no_key_us"] = 1e6 * (time.perf_counter() - began) / LOOK_UPS
        await directory.close()
    return metrics


async def _fill(url: str, teams: int, keys: int) -> list[str]:
    """The keys."""
    known = [new_key() for _ in range(keys)]
    async with _opened(url) as store:
        ids = [(await store.create_team("local", f"team-{number}")).id for number in range(teams)]
        for number, key in enumerate(known):
            stored = Key(
                id=f"key_{number}",
                team_id=ids[number % teams],
                name=f"laptop of {number}",
                digest=PEPPER.digest(key),
                pepper_id=PEPPER.id,
                last_four=last_four(key),
                scopes=("generate", "usage"),
                created_at=time.time(),
                created_by="local",
            )
            await store.add_key("local", stored)
    return known


@contextlib.asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Store]:
    store = await Store.open(url)
    try:
        yield store
    finally:
        await store.close()


async def _there(store: Store) -> Store:
    return store


async def _longest_hold() -> float:
    """Until cancelled, how long in seconds nobody else had a turn at the most."""
    longest, last = 0.0, time.perf_counter()
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
    return longest
