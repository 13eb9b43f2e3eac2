"""What OpenAI's own client does about the two kinds of 429: it repeats the one, and not the other."""

from __future__ import annotations

import time

import httpx
import openai
import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from deployments.http.middleware import ErrorMiddleware
from deployments.teams.book import Used
from deployments.teams.counting import Ask
from deployments.teams.local_counters import LocalCounters
from deployments.teams.rate_limit_headers import duration, headers_of
from deployments.teams.tally import Now
from tests.support.asks import account, ask, at, hard


class Server:
    """Answers what there is room for. Its time begins with its first answer, however long that one took to be asked."""

    def __init__(self, asked: Ask) -> None:
        self.counters = LocalCounters(self.now)
        self.calls = 0
        self._ask = asked
        self._began: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        try:
            grant = await self.counters.reserve(self._ask)
        finally:
            self._began = self._began or time.monotonic()
        await JSONResponse({"object": "list", "data": []}, headers=headers_of(grant))(scope, receive, send)

    def client(self) -> openai.AsyncOpenAI:
        app = ErrorMiddleware(self, on_refused=lambda error: None)
        transport = httpx.AsyncClient(transport=httpx.ASGITransport(app=app))
        return openai.AsyncOpenAI(api_key="none", base_url="http://server/v1", http_client=transport)

    def now(self) -> Now:
        return at(0.0 if self._began is None else time.monotonic() - self._began)


async def test_a_rate_limit_is_repeated_when_there_is_room() -> None:
    team = account(requests=100, tokens=60_000)
    server = Server(ask(team, tokens=200))
    server.counters.book.remember(Used(team, 0, 60_000), server.now())
    started = time.monotonic()
    async with server.client() as client:
        response = await client.models.with_raw_response.list()
    assert time.monotonic() - started >= 0.2
    assert server.calls == 2
    assert response.headers["x-ratelimit-limit-requests"] == "100"
    assert response.headers["x-ratelimit-remaining-requests"] == "99"
    assert response.headers["x-ratelimit-limit-tokens"] == "60000"


async def test_a_budget_that_is_used_up_makes_one_call() -> None:
    server = Server(ask(account(budget=hard(5)), cost=6))
    async with server.client() as client:
        with pytest.raises(openai.RateLimitError) as raised:
            await client.models.list()
    assert server.calls == 1
    assert (raised.value.type, raised.value.code) == ("insufficient_quota", "insufficient_quota")
    assert "retry-after" not in raised.value.response.headers


async def test_a_request_that_never_fits_makes_one_call() -> None:
    server = Server(ask(account(tokens=5), tokens=6))
    async with server.client() as client:
        with pytest.raises(openai.RateLimitError) as raised:
            await client.models.list()
    assert server.calls == 1
    assert (raised.value.type, raised.value.code) == ("tokens", "rate_limit_exceeded")


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        *((0, "0s"), (0.0001, "1ms"), (0.12, "120ms"), (0.9999, "1s"), (1, "1s"), (1.2, "2s"), (59.2, "1m0s")),
        *((360, "6m0s"), (3599.5, "1h0m0s"), (3661, "1h1m1s")),
    ],
)
def test_durations_are_written_as_openai_does_and_never_too_short(seconds: float, written: str) -> None:
    assert duration(seconds) == written
