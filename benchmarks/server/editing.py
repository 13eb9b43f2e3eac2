"""One editor's session on a server: a request at every pause, earlier ones cancelled, and what its user got to see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from benchmarks.metrics import Timeline
from benchmarks.server.completions import Completion, stream
from benchmarks.server.typing_model import Pause

CancelOn = Literal["request", "key"]


@dataclass
class Asked:
    """One request of a session. next_key: when its user typed on, on the clock of the completion; None: never.

    first: the session's first request, which finds nothing in the cache. superseded: cancelled before its end.
    """

    completion: Completion
    next_key: float | None
    first: bool
    superseded: bool = False

    @property
    def first_line_at(self) -> float | None:
        """When the first line with something in it was complete; None if it never was."""
        text = ""
        completion = self.completion
        for at, piece in zip(completion.timeline.pieces, completion.texts, strict=True):
            text = (text + piece).lstrip("\n")
            if "\n" in text and text.partition("\n")[0].strip():
                return at
        return completion.timeline.pieces[-1] if completion.finished and text.strip() else None

    def line_within(self, seconds: float) -> bool:
        """The first line was complete so soon after it was asked for."""
        at = self.first_line_at
        return at is not None and at - self.completion.timeline.started <= seconds

    @property
    def shown(self) -> bool:
        """The first line was complete before the user typed on: what an editor can show."""
        at = self.first_line_at
        return at is not None and (self.next_key is None or at < self.next_key)

    @property
    def received_tokens(self) -> int:
        """The server's count of a finished request; else the pieces that came, each of at least a token."""
        if self.completion.finished:
            return self.completion.timeline.output_tokens
        return sum(1 for text in self.completion.texts if text)

    @property
    def shown_tokens(self) -> float:
        """Of a request that was shown: the tokens that had come when the user typed on."""
        if not self.shown:
            return 0
        pieces = self.completion.timeline.pieces
        seen = sum(1 for at in pieces if self.next_key is None or at < self.next_key)
        return self.received_tokens * seen / len(pieces)


async def edit(
    client: httpx.AsyncClient,
    plan: list[Pause],
    body_at: Callable[[int], dict[str, Any]],
    *,
    started: float,
    cancel_on: CancelOn = "request",
    session_id: str | None = None,
) -> list[Asked]:
    """Live through a session that began at `started` on `time.perf_counter`, at its times, whatever the server does.

    body_at: the request when so many characters are typed.
    session_id: names the session to the server; None: it is not told.
    cancel_on: a request is given up when the next one is sent, or already when the next key is typed.
    """
    session: list[Asked] = []
    tasks: list[asyncio.Task[None]] = []

    def give_up(number: int) -> None:
        if not tasks[number].done() and not session[number].completion.finished:
            session[number].superseded = True
            tasks[number].cancel()

    for pause in plan:
        await asyncio.sleep(started + pause.at - time.perf_counter())
        if tasks:
            give_up(len(tasks) - 1)
        completion = Completion(Timeline(0.0))
        next_key = None if pause.next_key is None else started + pause.next_key
        session.append(Asked(completion, next_key, first=not session))
        tasks.append(asyncio.create_task(stream(client, body_at(pause.typed), completion, session_id)))
        if cancel_on == "key" and next_key is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(next_key - time.perf_counter(), give_up, len(tasks) - 1)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):  # not a cancellation, which is no Exception
            raise result
    return session
