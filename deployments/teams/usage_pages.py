"""Usage in pages of whole buckets: what a bill, a chart and a table are made of."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deployments.teams.records import Bucket, Grouping, UsageRow

if TYPE_CHECKING:
    from deployments.teams.store import Store

_WIDTHS = {"hour": 3600, "day": 86_400}

MAX_ROWS = 10_000
"""Of one page; a page has at least one bucket, whatever that holds."""


@dataclass(frozen=True)
class Asked:
    """What is summed, of what began in `start <= time < end` (Unix seconds). None: of all."""

    start: float
    end: float
    bucket: Bucket
    by: tuple[Grouping, ...] = ()
    team_ids: tuple[str, ...] | None = None
    key_ids: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None

    @property
    def buckets(self) -> int:
        if self.bucket == "all":
            return 1
        width = _WIDTHS[self.bucket]
        return max(0, math.ceil(self.end / width) - math.floor(self.start / width))


@dataclass
class UsageBucket:
    start: float
    end: float
    rows: list[UsageRow] = field(default_factory=list)


@dataclass(frozen=True)
class UsagePage:
    """next_start: where the next page begins; None: this was the last one."""

    buckets: Sequence[UsageBucket]
    next_start: float | None

    @property
    def rows(self) -> list[UsageRow]:
        return [row for bucket in self.buckets for row in bucket.rows]


async def usage_page(store: Store, asked: Asked, most_buckets: int) -> UsagePage:
    """The first buckets of what is asked, empty ones too. Raises StoreError."""
    buckets = _edges(asked, most_buckets)
    if not buckets:
        return UsagePage([], None)
    rows = await store.usage(
        asked.start,
        buckets[-1].end,
        bucket=asked.bucket,
        by=asked.by,
        team_ids=asked.team_ids,
        key_ids=asked.key_ids,
        models=asked.models,
    )
    by_start = {_floor(bucket.start, asked.bucket): bucket for bucket in buckets}
    for row in rows:
        by_start[_floor(row.start, asked.bucket)].rows.append(row)
    kept = _that_fit(buckets)
    end = kept[-1].end
    return UsagePage(kept, end if end < asked.end else None)


async def usage_pages(store: Store, asked: Asked, most_buckets: int) -> AsyncIterator[UsagePage]:
    """All of what is asked. Raises StoreError."""
    start: float | None = asked.start
    while start is not None:
        page = await usage_page(store, _from(asked, start), most_buckets)
        yield page
        start = page.next_start


def _from(asked: Asked, start: float) -> Asked:
    return Asked(start, asked.end, asked.bucket, asked.by, asked.team_ids, asked.key_ids, asked.models)


def _edges(asked: Asked, most: int) -> list[UsageBucket]:
    if asked.start >= asked.end:
        return []
    if asked.bucket == "all":
        return [UsageBucket(asked.start, asked.end)]
    width, first = _WIDTHS[asked.bucket], _floor(asked.start, asked.bucket)
    starts = [first + width * number for number in range(min(most, asked.buckets))]
    return [UsageBucket(max(start, asked.start), min(start + width, asked.end)) for start in starts]


def _floor(time: float, bucket: Bucket) -> float:
    return 0.0 if bucket == "all" else math.floor(time / _WIDTHS[bucket]) * _WIDTHS[bucket]


def _that_fit(buckets: list[UsageBucket]) -> list[UsageBucket]:
    kept, rows = buckets[:1], len(buckets[0].rows)
    for bucket in buckets[1:]:
        rows += len(bucket.rows)
        if rows > MAX_ROWS:
            break
        kept.append(bucket)
    return kept
