"""The ledger: what was computed and who pays for it, once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial

import msgspec
from sqlalchemy import Select, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.teams.database import usage
from deployments.teams.database.connections import Database, pieces, upsert
from deployments.teams.database.schema import ledger
from deployments.teams.records import LedgerEntry

_PAGE = 500


async def book(connection: AsyncConnection, entries: Sequence[LedgerEntry]) -> int:
    """How many were new. In the order of their ids, and rows of the ledger before those of usage: two that book the
    same wait for each other, never both at once.
    """
    by_id: dict[str, LedgerEntry] = {}
    for entry in entries:
        by_id.setdefault(entry.id, entry)
    waiting = [by_id[key] for key in sorted(by_id)]
    statement = upsert(connection, ledger).on_conflict_do_nothing().returning(ledger.c.id)
    new: list[LedgerEntry] = []
    for piece in pieces(waiting):
        result = await connection.execute(statement, [msgspec.structs.asdict(entry) for entry in piece])
        new += [by_id[row.id] for row in result.all()]
    await usage.add_entries(connection, new)
    return len(new)


async def read(
    database: Database, start: float, end: float, equal: Mapping[str, Sequence[str] | None]
) -> AsyncIterator[LedgerEntry]:
    """Page by page, each from where the last one ended: no connection is kept, whoever reads how slowly.

    equal: what columns have to hold one of, where it is not None.
    """
    columns = ledger.c
    chosen = [columns[name].in_(values) for name, values in equal.items() if values is not None]
    query = select(ledger).where(columns.started_at < end, *chosen).order_by(columns.started_at, columns.id)
    page = query.where(columns.started_at >= start).limit(_PAGE)
    while True:
        found = await database.read(partial(_page, query=page))
        for entry in found:
            yield entry
        if len(found) < _PAGE:
            return
        last = found[-1]
        page = query.where(tuple_(columns.started_at, columns.id) > (last.started_at, last.id)).limit(_PAGE)


async def _page(connection: AsyncConnection, query: Select[*tuple[object, ...]]) -> list[LedgerEntry]:
    return [LedgerEntry(**row) for row in (await connection.execute(query)).mappings()]
