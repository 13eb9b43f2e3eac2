"""A backend that is another one in each test, so that one app, or one server, does for all of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.health import HealthReport
from deployments.protocol import Delta, GenerationRequest, ModelInfo
from tests.support.fake_backend import FakeBackend


class Stage:
    """actor: who answers at present. All have the same model and window: an app asks once and remembers."""

    def __init__(self, actor: FakeBackend) -> None:
        self.actor = actor

    def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        return self.actor.stream(request)

    async def generate(self, request: GenerationRequest) -> list[Delta]:
        return await self.actor.generate(request)

    async def health(self) -> HealthReport:
        return await self.actor.health()

    async def info(self) -> ModelInfo:
        return await self.actor.info()


class Audience:
    """Counts the requests that `app` is answering, so that a test can wait for the last one of its own.

    present: how many there are.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.present = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.present += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self.present -= 1
