"""Usage in pages: together they are what one question answers."""

from __future__ import annotations

import itertools
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


class Asking:
    """A store that writes down what it is asked, and has so many rows in each bucket of an hour."""

    def __init__(self, *rows: int) -> None:
        self.asked: list[tuple[object, ...]] = []
        self._rows = rows

    async def usage(self, start: float, end: float, **chosen: object) -> list[UsageRow]:
        self.asked.append((start, end, chosen))
        return [
            UsageRow(start=max(start, hour * HOUR), end=0.0, requests=number)
            for hour, rows in enumerate(self._rows)
            for number in range(rows)
            if start < (hour + 1) * HOUR and hour * HOUR < end
        ]


async def test_a_page_has_as_many_rows_as_it_may_and_one_bucket_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_pages, "MAX_ROWS", 10)
    for rows, fit, next_start in (
        ((4, 6, 0), 3, None),
        ((4, 6, 1), 2, 2.0 * HOUR),
        ((4, 7, 0), 1, 1.0 * HOUR),
        ((11, 0, 0), 1, 1.0 * HOUR),
        ((10, 0, 1), 2, 2.0 * HOUR),
    ):
        page = await usage_page(Asking(*rows), Asked(0.0, 3.0 * HOUR, "hour"), 9)  # type: ignore[arg-type]
        assert [len(bucket.rows) for bucket in page.buckets] == list(rows[:fit])
        assert (len(page.rows), page.next_start) == (sum(rows[:fit]), next_start)


async def test_each_page_asks_for_what_was_asked_and_no_more() -> None:
    chosen = {"by": ("team", "model"), "team_ids": ("a",), "key_ids": ("k",), "models": ("m",)}
    store = Asking(*[1] * 5)
    asked = Asked(0.5 * HOUR, 4.25 * HOUR, "hour", **chosen)  # type: ignore[arg-type]
    pages = [page async for page in usage_pages.usage_pages(store, asked, 2)]  # type: ignore[arg-type]
    edges = [0.5, 2.0, 4.0, 4.25]
    assert store.asked == [
        (start * HOUR, end * HOUR, {"bucket": "hour", **chosen}) for start, end in itertools.pairwise(edges)
    ]
    assert [page.next_start for page in pages] == [2.0 * HOUR, 4.0 * HOUR, None]
    assert [(bucket.start, bucket.end) for bucket in pages[0].buckets] == [
        (0.5 * HOUR, 1.0 * HOUR),
        (1.0 * HOUR, 2.0 * HOUR),
    ]
    whole = Asking(1)
    (page,) = [page async for page in usage_pages.usage_pages(whole, Asked(1.0, 9.0, "all"), 1)]  # type: ignore[arg-type]
    assert [(bucket.start, bucket.end) for bucket in page.buckets] == [(1.0, 9.0)]
    nothing = {"by": (), "team_ids": None, "key_ids": None, "models": None}
    assert whole.asked == [(1.0, 9.0, {"bucket": "all", **nothing})]
    assert (Asked(1.0, 9.0, "all").buckets, Asked(2.0 * DAY, 9.0, "day").buckets) == (1, 0)
    assert (await usage_page(whole, Asked(9.0, 9.0, "all"), 1)).buckets == []  # type: ignore[arg-type]
