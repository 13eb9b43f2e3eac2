"""The ranks of an engine as its replica sees them, without processes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

FORWARD = {"path": "torch", "reason": "several ranks", "products": None}


def report(rank: int) -> dict[str, Any]:
    return {
        "dtype": "bfloat16",
        "device": "cpu:0",
        "forward": FORWARD,
        "load_seconds": 1.5 + rank,
        "parameter_bytes": 100 + rank,
        "num_kv_blocks": 70 - rank,
        "kv_cache_bytes": 1000,
    }


class FakeGroup:
    """Of two ranks. done: what was done to it, in order. why: how its ranks end. stops: they do when told to."""

    def __init__(self) -> None:
        self.socket_path = Path("/nowhere/engine.sock")
        self.reports = [report(0), report(1)]
        self.done: list[str] = []
        self.why: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.stops = True

    async def ended(self) -> str:
        return await asyncio.shield(self.why)

    async def stopped(self, timeout_s: float) -> bool:
        return self.stops

    def kill(self) -> None:
        self.done.append("killed")

    def release(self) -> None:
        self.done.append("released")

    def remove_socket(self) -> None:
        self.done.append("socket removed")
