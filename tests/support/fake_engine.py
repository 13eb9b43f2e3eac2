"""An engine client without an engine: tests say what arrives, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from model.process.client import EngineDeadError, FailureKind, merge
from model.request import Failure, Output, Request
from model.statistics import EngineStats


class FakeEngine:
    """Implements `deployments.replica.service.Client`.

    requests: what was submitted, by id. aborted: ids whose generator was closed before the end.
    fetched: how many items each request's generator has handed out.
    """

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self.stats = EngineStats()
        self.last_message_at = self._clock()
        self.dead: EngineDeadError | None = None
        self.requests: dict[str, Request] = {}
        self.aborted: list[str] = []
        self.fetched: dict[str, int] = {}
        self.answers_pings = True
        self.shut_down = False
        self._arrived: dict[str, list[Output]] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._died = asyncio.Event()

    @property
    def open_requests(self) -> int:
        return len(self._news)

    def say(
        self,
        request_id: str,
        *token_ids: int,
        finish: str | None = None,
        stop_token_id: int | None = None,
        queue_seconds: float = 0.0,
        cached_tokens: int = 0,
        failure: Failure | None = None,
    ) -> None:
        """One step's output for a request."""
        self.last_message_at = self._clock()
        output = Output(
            request_id,
            list(token_ids),
            finish_reason=finish,  # type: ignore[arg-type]
            stop_token_id=stop_token_id,
            queue_seconds=queue_seconds,
            cached_tokens=cached_tokens,
            failure=failure,
        )
        self._arrived.setdefault(request_id, []).append(output)
        if request_id in self._news:
            self._news[request_id].set()

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        id = request.request_id
        self.requests[id] = request
        news = self._news[id] = asyncio.Event()
        if self._arrived.get(id):
            news.set()
        finished = False
        try:
            while not finished:
                await news.wait()
                news.clear()
                if arrived := self._arrived.pop(id, []):
                    output = merge(arrived)
                    finished = output.finish_reason is not None
                    self.fetched[id] = self.fetched.get(id, 0) + 1
                    yield output
                elif self.dead is not None:
                    raise self.dead
        finally:
            del self._news[id]
            if not finished and self.dead is None:
                self.aborted.append(id)

    async def ping(self, timeout_s: float) -> EngineStats:
        if self.dead is not None:
            raise self.dead
        if not self.answers_pings:
            await asyncio.sleep(timeout_s)
            raise TimeoutError
        return self.stats

    async def wait_dead(self) -> EngineDeadError:
        await self._died.wait()
        assert self.dead is not None
        return self.dead

    def fail(self, reason: str, kind: FailureKind = "died") -> None:
        if self.dead is None:
            self.dead = EngineDeadError(reason, kind)
            self._died.set()
            for news in self._news.values():
                news.set()

    async def shutdown(self) -> None:
        self.shut_down = True
        self.fail("the engine was shut down", "stopped")
