"""What teams and keys are called."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.teams.database.connections import pieces


async def names(connection: AsyncConnection, table: Table, ids: Collection[str]) -> dict[str, str]:
    """By id, of those that are there; ended ones too."""
    found: dict[str, str] = {}
    for piece in pieces(sorted(ids)):
        rows = await connection.execute(select(table.c.id, table.c.name).where(table.c.id.in_(piece)))
        found |= {row.id: row.name for row in rows.all()}
    return found
