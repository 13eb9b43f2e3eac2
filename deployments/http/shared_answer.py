"""One answer for all who ask the same: however often somebody asks, it costs what one costs who asks now and then."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

AnswerT = TypeVar("AnswerT")


class SharedAnswer(Generic[AnswerT]):
    """Calls `ask` for who comes first; who comes until `fresh_s` seconds later, or until it is there, gets the same.

    What it raises, all of them get. It is asked to its end, and not on the account of the request that came first,
    which may be given up. fresh_s: since it was begun. patience_s: an answer that takes longer may be about what is no
    more, and who comes then has it asked anew.
    """

    def __init__(
        self, ask: Callable[[], Coroutine[Any, Any, AnswerT]], fresh_s: float, patience_s: float = math.inf
    ) -> None:
        self._ask = ask
        self._fresh_s = fresh_s
        self._patience_s = patience_s
        self._asking: asyncio.Task[AnswerT] | None = None
        self._begun_at = 0.0

    async def get(self) -> AnswerT:
        asking, now = self._asking, asyncio.get_running_loop().time()
        if asking is None or now - self._begun_at >= (self._fresh_s if asking.done() else self._patience_s):
            asking = asyncio.get_running_loop().create_task(self._ask(), context=contextvars.Context())
            asking.add_done_callback(_seen)
            self._asking, self._begun_at = asking, now
        await asyncio.wait([asking])
        return asking.result()


def _seen(answer: asyncio.Future[Any]) -> None:
    """There may be nobody left whom it concerns that it failed."""
    if not answer.cancelled():
        answer.exception()
