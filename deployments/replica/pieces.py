"""Has the engine compute long prompts of editor sessions in pieces, as `deployments.replica.pace` says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Hashable
from typing import Protocol

import msgspec

from deployments.replica.backlog import Standing
from deployments.replica.pace import Pace
from deployments.replica.turns import Ask
from model.request import Output, Request, SamplingParams

_PARTLY = 128
"""Tokens at the end of a piece that need not be found again: a block is kept only when it is full."""


class Client(Protocol):
    def generate(self, request: Request) -> AsyncGenerator[Output, None]: ...


class Pieces:
    """Prompts of sessions on one engine. pace: says whose piece is next. count: called for each of them."""

    def __init__(self, client: Client, clock: Callable[[], float], count: Callable[[], None]) -> None:
        self._count = count
        self.pace = Pace()
        self._client = client
        self._clock = clock
        self._starts: dict[Ask, asyncio.Future[int]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def generate(self, key: Hashable, request: Request) -> AsyncGenerator[Output, None]:
        """The request's outputs, once all but the last piece of its prompt is computed. Closing it aborts.

        Raises EngineDeadError.
        """
        ask = self.pace.ask(key, request.prompt_ids, Standing.of(request))
        try:
            number = ahead = 0
            while self.pace.wants_piece(ask):
                end = await self._turn(ask)
                begins = ask.computed
                number += 1
                piece = msgspec.structs.replace(
                    request,
                    request_id=f"{request.request_id}-piece-{number}",
                    prompt_ids=request.prompt_ids[:end],
                    params=SamplingParams(max_tokens=1, temperature=0.0),
                    output_ids=[],
                    is_piece=True,
                )
                self._count()
                async with contextlib.aclosing(self._client.generate(piece)) as outputs:
                    async for output in outputs:
                        ahead += end - output.cached_tokens
                        if output.cached_tokens < begins - _PARTLY:
                            ask.in_pieces = False  # the cache is too full to keep them: each would begin anew
                self.pace.has_computed(ask, end)
                self.pace.piece_ended(ask, self._clock())
                self._look()
            self.pace.answers(ask)
            self._look()
            request = msgspec.structs.replace(request, ahead=ahead)
            async with contextlib.aclosing(self._client.generate(request)) as outputs:
                async for output in outputs:
                    if output.token_ids:
                        self.pace.has_computed(ask, len(ask.prompt))
                    yield output
        finally:
            self.pace.ended(ask, self._clock())
            self._look()

    async def _turn(self, ask: Ask) -> int:
        """Wait for its piece, and say where that ends."""
        start = self._starts[ask] = asyncio.get_running_loop().create_future()
        self._look()
        try:
            return await start
        finally:
            del self._starts[ask]

    def _look(self) -> None:
        """Start what pieces may start, and look again when the next one may."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock()
        while (piece := self.pace.next_piece(now)) is not None:
            ask, end = piece
            start = self._starts[ask]
            if not start.cancelled():  # or it is about to leave, and gives its turn back
                start.set_result(end)
        if (again := self.pace.next_at()) is not None:
            self._timer = asyncio.get_running_loop().call_later(again - now, self._look)
