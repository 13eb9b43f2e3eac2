"""Telling replicas which answers have arrived, many at a time, and how far this ingress lags behind with the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any

from deployments.http.channels import Channels
from deployments.protocol import Receipt

TOGETHER_S = 0.03
"""Receipts for one replica wait so long for others."""

SENT_S = 2.0
"""A replica that lives answers within this. One that is about to leave cannot be reached any more."""

LAGGING_S = 0.01
LAG_REPORTED_S = 0.25
"""A lag beyond `LAGGING_S` is reported this often, whether an answer has arrived or not."""


class Receipts:
    """Sends them. send: may fail: Serve leads no calls to a replica that is about to leave, which takes no new work."""

    def __init__(self, channels: Channels, send: Callable[[Receipt], Awaitable[object]]) -> None:
        self._channels = channels
        self._send = send
        self._arrived: dict[str, list[str]] = {}
        self._senders: set[asyncio.Task[None]] = set()
        channels.on_lag = self._report_lag
        self._next_report: dict[str, float] = {}

    def add(self, engine: str, request_id: str) -> None:
        """The answer to this request has arrived. engine: the replica's name."""
        arrived = self._arrived.setdefault(engine, [])
        arrived.append(request_id)
        if len(arrived) == 1:
            self._start(self._report(engine))

    def _report_lag(self, engine: str, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        if seconds > LAGGING_S and now >= self._next_report.get(engine, now):
            self._next_report[engine] = now + LAG_REPORTED_S
            self._start(self._tell(engine, []))

    def _start(self, report: Coroutine[Any, Any, None]) -> None:
        # It is nobody's request: Serve ends what was asked for one that it cancels, by what its context says.
        sender = asyncio.create_task(report, context=Context())
        self._senders.add(sender)
        sender.add_done_callback(self._senders.discard)

    async def _report(self, engine: str) -> None:
        await asyncio.sleep(TOGETHER_S)
        await self._tell(engine, self._arrived.pop(engine))

    async def _tell(self, engine: str, request_ids: list[str]) -> None:
        lag, reader = self._channels.lag_s(engine), self._channels.reader
        with contextlib.suppress(Exception):
            async with asyncio.timeout(SENT_S):
                await self._send(Receipt(engine=engine, reader=reader, request_ids=request_ids, lag_s=lag))
