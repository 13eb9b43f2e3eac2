"""News of an answer, seldom: for whoever keeps count of it, and passes on the whole."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from deployments.protocol import Delta, gather


async def seldom(
    batches: AsyncGenerator[list[Delta], None], news_s: float, clock: Callable[[], float]
) -> AsyncGenerator[list[Delta], None]:
    """The first at once; then what has come whenever the clock has done another `news_s`, and at the end the rest.

    clock: seconds. Answers with the same clock have their news at the same times, so that it leaves in one message.
    """
    pending: dict[int, Delta] = {}
    due_at = clock()
    async with aclosing(batches):
        async for batch in batches:
            gather(pending, batch)
            if clock() >= due_at:
                yield list(pending.values())
                pending, due_at = {}, (clock() // news_s + 1) * news_s
    if pending:
        yield list(pending.values())
