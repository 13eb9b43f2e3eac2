"""Usage: sums of the ledger by the hour, kept as it grows, and what is asked of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    RowMapping,
    Select,
    Table,
    and_,
    case,
    func,
    literal,
    select,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.teams.database.connections import in_pieces, pieces, upsert
from deployments.teams.database.schema import NOBODY, ledger, spend_day, teams, usage_hour
from deployments.teams.periods import period_start
from deployments.teams.records import Accepted, Bucket, Grouping, LedgerEntry, Spent, UsageRow

_HOUR, _DAY = 3600, 86400

_BOOKED = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "replayed_tokens", "cost")
_ACCEPTED = ("accepted", "accepted_lines")
_SUMS = (*_BOOKED, *_ACCEPTED)

_COLUMNS: dict[Grouping, str] = {
    "team": "team_id",
    "key": "key_id",
    "model": "model",
    "kind": "kind",
    "dialect": "dialect",
    "user": "user",
}

_Place = tuple[str | int, ...]
"""Of a row: its primary key."""


async def add_entries(connection: AsyncConnection, entries: Iterable[LedgerEntry]) -> None:
    hours: dict[_Place, list[int]] = {}
    days: dict[_Place, list[int]] = {}
    for entry in entries:
        hour = _floor(entry.started_at, _HOUR)
        place = _place(entry.team_id, hour, entry.key_id, entry.model, entry.kind, entry.dialect, entry.user)
        sums = hours.setdefault(place, [0] * len(_SUMS))
        for index, name in enumerate(_BOOKED):
            sums[index] += getattr(entry, name)
        days.setdefault((entry.team_id, _floor(hour, _DAY)), [0])[0] += entry.cost
    await _add(connection, usage_hour, hours)
    await _add(connection, spend_day, days)


async def add_accepted(connection: AsyncConnection, events: Iterable[Accepted]) -> None:
    hours: dict[_Place, list[int]] = {}
    for event in events:
        hour = _floor(event.at, _HOUR)
        place = _place(event.team_id, hour, event.key_id, event.model, "completed", event.dialect, event.user)
        sums = hours.setdefault(place, [0] * len(_SUMS))
        sums[-2] += event.completions
        sums[-1] += event.lines
    await _add(connection, usage_hour, hours)


async def read(
    connection: AsyncConnection,
    start: float,
    end: float,
    bucket: Bucket,
    by: Sequence[Grouping],
    equal: Mapping[str, Sequence[str] | None],
) -> list[UsageRow]:
    """equal: what columns have to hold one of, where it is not None."""
    names = [_COLUMNS[group] for group in dict.fromkeys(by)]
    used = union_all(*_parts(start, end, bucket, names, equal)).subquery()
    groups = [used.c.bucket, *(used.c[name] for name in names)]
    sums = [func.sum(used.c[name]).label(name) for name in _SUMS]
    query = select(*groups, *sums).group_by(*groups).order_by(*groups)

    def usage_row(row: RowMapping) -> UsageRow:
        first, last = (start, end) if bucket == "all" else _bounds(row["bucket"], bucket)
        # PostgreSQL's sums of BIGINT are NUMERIC, SQLite's are 64-bit integers or an error: none of them is rounded.
        values = {name: row[name] or None for name in names} | {name: int(row[name]) for name in _SUMS}
        return msgspec.convert({**values, "start": max(first, start), "end": min(last, end)}, UsageRow)

    return await in_pieces(await connection.execute(query), usage_row)


async def spent(connection: AsyncConnection, now: float) -> dict[str, Spent]:
    """By team that has a budget."""
    starts = {period: period_start(period, now) for period in ("day", "week", "month")}
    since = case(starts, value=teams.c.budget_period)
    days = and_(spend_day.c.team_id == teams.c.id, spend_day.c.day >= since)
    query = (
        select(teams.c.id, teams.c.budget_period, func.coalesce(func.sum(spend_day.c.cost), 0).label("cost"))
        .select_from(teams.outerjoin(spend_day, days))
        .where(teams.c.budget_period.is_not(None), teams.c.archived_at.is_(None))
        .group_by(teams.c.id, teams.c.budget_period)
    )
    rows = (await connection.execute(query)).all()
    return {row.id: Spent(period_start=starts[row.budget_period], amount=int(row.cost)) for row in rows}


async def _add(connection: AsyncConnection, table: Table, places: Mapping[_Place, Sequence[int]]) -> None:
    """In the order of their places: two that add to the same rows wait for each other, never both at once."""
    names = [column.key for column in table.primary_key]
    sums = [column.key for column in table.c if not column.primary_key]
    statement = upsert(connection, table)
    added = {name: table.c[name] + statement.excluded[name] for name in sums}
    statement = statement.on_conflict_do_update(index_elements=names, set_=added)
    for piece in pieces(sorted(places.items())):
        rows = [dict(zip((*names, *sums), (*place, *amounts), strict=True)) for place, amounts in piece]
        await connection.execute(statement, rows)


def _parts(
    start: float, end: float, bucket: Bucket, names: Sequence[str], equal: Mapping[str, Sequence[str] | None]
) -> Iterator[Select[*tuple[object, ...]]]:
    """Whole hours from the roll-up, what is before and after them from the ledger."""
    first, last = -_floor(-start, _HOUR), _floor(end, _HOUR)
    hour = usage_hour.c.hour
    rolled = [usage_hour.c[name] for name in _SUMS]
    yield (
        select(_bucket(hour, bucket), *(usage_hour.c[name] for name in names), *rolled)
        .where(hour >= first, hour < last)
        .where(*(usage_hour.c[name].in_(values) for name, values in equal.items() if values is not None))
    )
    edges = [(start, first), (last, end)] if first <= last else [(start, end)]
    for begin, until in edges:
        if begin < until:
            place = _bucket(literal(_floor(begin, _HOUR), BigInteger), bucket)
            booked = [ledger.c[name] for name in _BOOKED]
            nothing = [literal(0, BigInteger).label(name) for name in _ACCEPTED]
            yield (
                select(place, *(func.coalesce(ledger.c[name], NOBODY).label(name) for name in names), *booked, *nothing)
                .where(ledger.c.started_at >= begin, ledger.c.started_at < until)
                .where(*(ledger.c[name].in_(values) for name, values in equal.items() if values is not None))
            )


def _bucket(hour: ColumnElement[int], bucket: Bucket) -> ColumnElement[int]:
    start = {"hour": hour, "day": hour - hour % _DAY, "all": literal(0, BigInteger)}[bucket]
    return start.label("bucket")


def _bounds(start: int, bucket: Bucket) -> tuple[float, float]:
    return start, start + (_HOUR if bucket == "hour" else _DAY)


def _place(
    team_id: str, hour: int, key_id: str | None, model: str, kind: str, dialect: str, user: str | None
) -> _Place:
    return (team_id, hour, key_id or NOBODY, model, kind, dialect, user or NOBODY)


def _floor(at: float, step: int) -> int:
    return math.floor(at / step) * step
