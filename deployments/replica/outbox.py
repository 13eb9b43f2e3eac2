"""What one ingress is sent in common: the news of all its answers, a message a step instead of one an answer.

A message costs the same whatever is in it, and an ingress that lags behind says by how much: then messages are fewer
and larger. Where no ingress listens, answers travel on the calls that asked for them (`deployments.replica.delivery`).
"""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import AsyncGenerator, Callable

from deployments.errors import ServeError
from deployments.protocol import Delta, News, gather

HEARTBEAT_S = 2.0
"""Without news an ingress is told that the replica lives; without answers under way, that nothing comes any more."""

LONGEST_INTERVAL_S = 0.05
"""Between messages: each stream is told of its tokens at least 20 times a second."""

REPORT_LIFE_S = 2.0
"""An ingress that said longer ago how far it lags behind may have caught up."""


class Outbox:
    """Of one ingress. attached: it listens. clock: seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.attached = False
        self._clock = clock
        self._news = asyncio.Event()
        self._pending: dict[str, dict[int, Delta]] = {}
        self._failed: dict[str, ServeError] = {}
        self._answers: dict[str, Callable[[], object]] = {}
        self._connections = 0
        self._sent_at = self._reported_at = clock() - 2 * REPORT_LIFE_S
        self._lag_s = 0.0

    def begin(self, request_id: str, lost: Callable[[], object]) -> None:
        """This answer travels here from now on. lost: called if the ingress goes away before its end."""
        self._answers[request_id] = lost

    def put(self, request_id: str, news: list[Delta]) -> None:
        gather(self._pending.setdefault(request_id, {}), news)
        self._news.set()

    def fail(self, request_id: str, error: ServeError) -> None:
        """The last of this answer, behind what was put before."""
        self._failed[request_id] = error
        self._news.set()

    def end(self, request_id: str) -> None:
        self._answers.pop(request_id, None)

    def lags(self, seconds: float) -> None:
        """By so much the ingress is behind."""
        self._lag_s, self._reported_at = seconds, self._clock()

    @property
    def interval_s(self) -> float:
        """Between two messages."""
        if self._clock() - self._reported_at > REPORT_LIFE_S:
            return 0.0
        return min(self._lag_s / 2, LONGEST_INTERVAL_S)

    async def messages(self) -> AsyncGenerator[News, None]:
        """Until nothing is under way any more. Whoever closes it early is gone, and so is what was under way to it."""
        self._lose()
        self._connections += 1
        connection = self._connections
        self.attached = True
        try:
            while connection == self._connections:
                if not await comes(self._news, HEARTBEAT_S):
                    if not self._answers:
                        return
                    yield self._message()
                    continue
                # what else this step has brought, and where the ingress lags behind, the next ones
                await asyncio.sleep(max(self._sent_at + self.interval_s - self._clock(), 0.0))
                if connection == self._connections:
                    yield self._message()
        finally:
            if connection == self._connections:
                self.attached = False
                self._lose()

    def _message(self) -> News:
        self._news.clear()
        self._sent_at = self._clock()
        deltas = [(request_id, [*news.values()]) for request_id, news in self._pending.items()]
        errors = [(request_id, pickle.dumps(error)) for request_id, error in self._failed.items()]
        self._pending, self._failed = {}, {}
        return News(sent_at=time.time(), deltas=deltas, errors=errors)

    def _lose(self) -> None:
        self._pending.clear()
        self._failed.clear()
        lost, self._answers = self._answers, {}
        for call in lost.values():
            call()


async def comes(event: asyncio.Event, within_s: float) -> bool:
    """Whether it is set within so many seconds."""
    if event.is_set():
        return True
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
