"""Usage in pages: together they are what one question answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.teams import usage_pages
from deployments.teams.records import Bucket, UsageRow
from deployments.teams.store import Store
from deployments.teams.usage_pages import Asked, UsageBucket, usage_page
from tests.support.stores import NOON, Clock, an_entry

HOUR, DAY = 3600, 86_400


@pytest_asyncio.fixture
async def filled(tmp_path: Path) -> AsyncIterator[Store]:
    """Entries of two teams, at every fifth hour of nine days."""
    store = await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'private' / 'teams.sqlite'}", Clock())
    entries = [an_entry(team_id=f"team_{n % 2}", started_at=NOON + n * 5 * HOUR + n, cost=n) for n in range(43)]
    await store.book(entries)
    yield store
    await store.close()


async def buckets_of(store: Store, asked: Asked, most: int) -> list[UsageBucket]:
    found, start = [], asked.start
    while True:
        page = await usage_page(store, Asked(start, asked.end, asked.bucket, asked.by), most)
        assert len(page.buckets) <= most
        found += page.buckets
        if page.next_start is None:
            return found
        assert page.next_start > start
        start = page.next_start


def in_sum(rows: list[UsageRow]) -> dict[str | None, tuple[int, int]]:
    sums: dict[str | None, tuple[int, int]] = {}
    for row in rows:
        requests, cost = sums.get(row.team_id, (0, 0))
        sums[row.team_id] = requests + row.requests, cost + row.cost
    return sums


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.integers(-DAY, 10 * DAY),
    length=st.integers(0, 10 * DAY),
    bucket=st.sampled_from(["hour", "day", "all"]),
    most=st.integers(1, 40),
    most_rows=st.integers(1, 30),
)
async def test_pages_are_the_whole(
    filled: Store, start: int, length: int, bucket: Bucket, most: int, most_rows: int
) -> None:
    asked = Asked(NOON + start, NOON + start + length, bucket, ("team",))
    whole = await filled.usage(asked.start, asked.end, bucket="all", by=("team",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usage_pages, "MAX_ROWS", most_rows)
        buckets = await buckets_of(filled, asked, most)
    assert in_sum([row for one in buckets for row in one.rows]) == in_sum(whole)
    assert in_sum([row async for page in usage_pages.usage_pages(filled, asked, most) for row in page.rows]) == in_sum(
        whole
    )
    edges = [edge for one in buckets for edge in (one.start, one.end)]
    if length:
        assert (edges[0], edges[-1]) == (asked.start, asked.end)
        assert edges[1:-1:2] == edges[2::2]
        assert len(buckets) == asked.buckets
        width = {"hour": HOUR, "day": DAY, "all": 1}[bucket]
        assert all(edge % width == 0 for edge in edges[1:-1])
    else:
        assert buckets == []
