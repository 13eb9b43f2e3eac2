"""Changes, each with its row of the audit log: a chain, of which every row seals the one before.

As in a linked timestamp (Haber and Stornetta, 1991): digest = SHA-256 over the row and the digest before. Whoever
changes, removes or reorders rows would have to write all later ones anew, and a copy of one digest gives that away.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.teams.database import schema
from deployments.teams.database.connections import Database
from deployments.teams.database.schema import storable
from deployments.teams.records import Audit
from deployments.teams.store_errors import AuditBrokenError

T = TypeVar("T")
Detail = Mapping[str, str | int | float | bool | None]

_PIECE = 500


class Change:
    """A transaction that holds the end of the chain. at: when it began."""

    def __init__(self, connection: AsyncConnection, actor: str, at: float, head: Row[int, str]) -> None:
        self.connection = connection
        self.actor = actor
        self.at = at
        self._number, self._digest = head.number, head.digest

    async def record(self, action: str, subject: str, detail: Detail) -> None:
        row = {
            "number": self._number + 1,
            "at": self.at,
            "actor": storable(self.actor),
            "action": action,
            "subject": storable(subject),
            "detail": _canonical(detail),
            "previous": self._digest,
        }
        digest = _digest(row)
        await self.connection.execute(schema.audit.insert(), {**row, "digest": digest})
        await self.connection.execute(update(schema.audit_head).values(number=row["number"], digest=digest))
        self._number, self._digest = self._number + 1, digest


async def change(database: Database, actor: str, at: float, work: Callable[[Change], Awaitable[T]]) -> T:
    """One at a time, in all processes: so what it finds stays as it is until its end."""

    async def locked(connection: AsyncConnection) -> T:
        head = await connection.execute(_HEAD.with_for_update())
        return await work(Change(connection, actor, at, head.one()))

    return await database.write(locked)


async def version(connection: AsyncConnection) -> int:
    """Grows with every change."""
    return (await connection.execute(_HEAD)).one().number


async def read(
    connection: AsyncConnection,
    after: int,
    limit: int,
    before: int | None,
    newest_first: bool,
    equal: Mapping[str, str | None],
) -> list[Audit]:
    """equal: what columns have to hold, where it is not None."""
    columns = schema.audit.c
    query = select(schema.audit).where(columns.number > after).limit(limit)
    query = query.order_by(columns.number.desc() if newest_first else columns.number)
    if before is not None:
        query = query.where(columns.number < before)
    query = query.where(*(columns[name] == value for name, value in equal.items() if value is not None))
    return [
        Audit(**{**row._mapping, "detail": json.loads(row.detail)}) for row in (await connection.execute(query)).all()
    ]


async def verify(connection: AsyncConnection) -> int:
    """How many rows the chain has. Raises AuditBrokenError."""
    number, digest = 0, ""
    rest = select(schema.audit).order_by(schema.audit.c.number).limit(_PIECE)
    while rows := (await connection.execute(rest)).mappings().all():
        for row in rows:
            number += 1
            if row["number"] != number:
                raise AuditBrokenError(number, "it is missing")
            if row["previous"] != digest:
                raise AuditBrokenError(number, "it does not follow the one before")
            digest = _digest({name: row[name] for name in _SEALED})
            if row["digest"] != digest:
                raise AuditBrokenError(number, "it is not as it was written")
        rest = rest.where(schema.audit.c.number > number)
    head = (await connection.execute(_HEAD)).one_or_none()
    if head is None or head.number > number:
        raise AuditBrokenError(number + 1, "it is missing")
    if (head.number, head.digest) != (number, digest):
        raise AuditBrokenError(number, "it was not the last one written")
    return number


def differences(before: Detail, after: Detail) -> Detail:
    """For the audit log: what is new, and under `..._before` what it was."""
    detail: dict[str, str | int | float | bool | None] = {}
    for name in after:
        if after[name] != before[name]:
            detail |= {name: after[name], f"{name}_before": before[name]}
    return detail


_HEAD = select(schema.audit_head.c.number, schema.audit_head.c.digest)
_SEALED = [column.name for column in schema.audit.c if column.name != "digest"]


def _digest(sealed: Mapping[str, str | int | float]) -> str:
    return hashlib.sha256(_canonical(sealed).encode()).hexdigest()


def _canonical(value: Mapping[str, str | int | float | bool | None]) -> str:
    """One text for equal values: sorted names, no white space, ASCII."""
    return json.dumps(dict(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
