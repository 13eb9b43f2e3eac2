"""News may wait for more of them, but for the first, and none is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from deployments.protocol import Delta
from deployments.replica.seldom import seldom

BATCHES = st.lists(st.tuples(st.integers(0, 300), st.lists(st.integers(0, 2), min_size=1, max_size=3)), max_size=20)


@given(BATCHES, st.sampled_from([50, 100]))
def test_the_first_comes_at_once_and_nothing_is_lost(batches: list[tuple[int, list[int]]], every_ms: int) -> None:
    """batches: after how many milliseconds news of which completions come."""
    now_ms = 0
    said = [0, 0, 0]

    async def answer() -> AsyncGenerator[list[Delta], None]:
        nonlocal now_ms
        for wait_ms, indices in batches:
            now_ms += wait_ms
            deltas = []
            for index in indices:
                deltas.append(Delta(index=index, token_ids=[said[index]]))
                said[index] += 1
            yield deltas

    async def read() -> None:
        heard: list[list[int]] = [[], [], []]
        times = []
        async for deltas in seldom(answer(), every_ms, lambda: now_ms):
            times.append(now_ms)
            assert len({delta.index for delta in deltas}) == len(deltas)
            for delta in deltas:
                heard[delta.index] += delta.token_ids
        assert heard == [list(range(count)) for count in said]
        if batches:
            assert times[0] == batches[0][0]
        # The rest comes at the end, whenever that is.
        assert all(later // every_ms > earlier // every_ms for earlier, later in pairwise(times[:-1]))

    asyncio.run(read())


async def test_answers_have_their_news_at_the_same_times_whenever_they_began() -> None:
    async def times(began_ms: int) -> list[int]:
        now_ms = began_ms

        async def answer() -> AsyncGenerator[list[Delta], None]:
            nonlocal now_ms
            for _ in range(40):
                now_ms += 10
                yield [Delta(index=0, token_ids=[1])]

        return [now_ms async for _ in seldom(answer(), 100, lambda: now_ms)]

    assert await times(20) == [30, 100, 200, 300, 400, 420]
    assert await times(70) == [80, 100, 200, 300, 400, 470]


async def test_closed_early_it_closes_what_it_reads() -> None:
    closed = []

    async def answer() -> AsyncGenerator[list[Delta], None]:
        try:
            yield [Delta(index=0, token_ids=[1])]
            yield [Delta(index=0, token_ids=[2])]
        finally:
            closed.append(True)

    news = seldom(answer(), 1.0, lambda: 0.0)
    await anext(news)
    await news.aclose()
    assert closed
