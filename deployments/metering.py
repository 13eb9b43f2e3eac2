"""Counts every request for work by how it ended: team, dialect, outcome."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import ServeError
from deployments.middleware import dialect, stream_failure, team
from monitoring import IngressMetrics

SUPERSEDED = "superseded"
"""The code of the error of a request whose place a newer one of its session took."""


class MeteringMiddleware:
    """metrics: the recorder, or None until the model's name is known. Only POST is counted: the rest is probes."""

    def __init__(self, app: ASGIApp, metrics: Callable[[], IngressMetrics | None]) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        status = 0
        sent_all = False

        async def send_and_note(message: Message) -> None:
            nonlocal status, sent_all
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                sent_all = True

        failed = False
        try:
            await self.app(scope, receive, send_and_note)
        except Exception:
            failed = True
            raise
        finally:
            # Nothing is awaited here: the task may be being cancelled.
            if (recorder := self.metrics()) is not None:
                error = stream_failure(scope)
                ended = "failed" if failed else outcome(status, sent_all, error)
                recorder.request_ended(ended, dialect(scope), team(scope))


def outcome(status: int, sent_all: bool, error: ServeError | None) -> str:
    """One of `monitoring.labels.OUTCOMES`. status: 0 where no answer was begun. error: what ended a stream."""
    if error is not None:
        if error.code == SUPERSEDED:
            return SUPERSEDED
        status = error.status
    elif not sent_all:
        return "aborted"
    if status == 429:
        return "shed"
    if status >= 500:
        return "failed"
    return "refused" if status >= 400 else "ok"
