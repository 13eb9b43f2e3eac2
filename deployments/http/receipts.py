"""Telling replicas which answers have arrived, many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from deployments.protocol import Receipt

TOGETHER_S = 0.03
"""Receipts for one replica wait so long for others."""

SENT_S = 2.0
"""A replica that lives answers within this. One that is about to leave cannot be reached any more."""


class Call(Protocol):
    def cancel(self) -> None: ...


class Receipts:
    """Sends them, and cancels the calls where that fails. send: False where the replica does not hear of it."""

    def __init__(self, send: Callable[[Receipt], Awaitable[bool]]) -> None:
        self._send = send
        self._calls: dict[str, dict[str, Call]] = {}
        self._senders: set[asyncio.Task[None]] = set()

    def add(self, engine: str, request_id: str, call: Call) -> None:
        """The answer to this request has arrived. engine: the replica's name; call: by which it was asked."""
        calls = self._calls.setdefault(engine, {})
        calls[request_id] = call
        if len(calls) == 1:
            sender = asyncio.create_task(self._report(engine))
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)

    async def _report(self, engine: str) -> None:
        await asyncio.sleep(TOGETHER_S)
        calls = self._calls.pop(engine)
        try:
            async with asyncio.timeout(SENT_S):
                heard = await self._send(Receipt(engine=engine, request_ids=[*calls]))
        except Exception:
            heard = False
        if not heard:
            for call in calls.values():
                call.cancel()
