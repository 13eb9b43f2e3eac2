"""A request counts as received when it comes and as open until it is over, whichever way it ends."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from starlette.types import Message, Receive, Scope, Send

from deployments.http.observation import ObservationMiddleware
from monitoring import IngressMetrics
from monitoring.tracing import OFF
from tests.support.waiting import eventually


class Counted(IngressMetrics):
    """open, received, ended: of the requests that were told of."""

    def __init__(self) -> None:
        super().__init__("m")
        self.open = self.received = self.ended = 0

    def request_received(self) -> None:
        super().request_received()
        self.received += 1
        self.open += 1

    def request_closed(self) -> None:
        super().request_closed()
        self.open -= 1

    def request_ended(self, outcome: str, dialect: str = "other", team: str = "default") -> None:
        super().request_ended(outcome, dialect, team)
        self.ended += 1


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("nobody expected this")


async def hangs(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(3600)


@pytest.mark.parametrize("app", [answers, fails, hangs])
@pytest.mark.parametrize(("method", "counted"), [("POST", 1), ("GET", 0)])
async def test_it_is_open_until_it_is_over(app: object, method: str, counted: int) -> None:
    metrics = Counted()
    came = asyncio.Event()

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        assert (metrics.open, metrics.received, metrics.ended) == (counted, counted, 0)
        came.set()
        await app(scope, receive, send)  # type: ignore[operator]

    async def nothing() -> Message:
        return {"type": "http.disconnect"}

    async def nowhere(message: Message) -> None: ...

    scope = {"type": "http", "method": method, "path": "/v1/completions", "headers": []}
    task = asyncio.create_task(ObservationMiddleware(noted, OFF, lambda: metrics)(scope, nothing, nowhere))
    await eventually(came.is_set)
    if app is hangs:
        task.cancel()
    with contextlib.suppress(RuntimeError, asyncio.CancelledError):
        await task
    assert (metrics.open, metrics.received, metrics.ended) == (0, counted, counted)
