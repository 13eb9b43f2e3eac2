"""Keys: of each what tells it again, never itself."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from sqlalchemy import RowMapping, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.teams.database.changes import Change, Detail, differences
from deployments.teams.database.connections import in_pieces
from deployments.teams.database.limits import limits_of, limits_row
from deployments.teams.database.schema import keys, teams
from deployments.teams.records import Key, Limits
from deployments.teams.store_errors import InvalidChangeError, NotFoundError


async def add(change: Change, key: Key) -> Key:
    if key.team_id is not None:
        team = (await change.connection.execute(select(teams.c.archived_at).where(teams.c.id == key.team_id))).first()
        if team is None:
            raise NotFoundError(f"there is no team {key.team_id!r}")
        if team.archived_at is not None:
            raise InvalidChangeError("a team that is archived gets no keys")
        if "admin" in key.scopes:
            raise InvalidChangeError("administrators' keys belong to no team")
    await change.connection.execute(keys.insert(), _row(key))
    await change.record("key.created", key.id, {"team_id": key.team_id, **_settings(key)})
    return key


async def alter(change: Change, key_id: str, changes: Mapping[str, str | float | Limits | None]) -> Key:
    """changes: values of fields of the key."""
    before = await of_id(change.connection, key_id)
    after = msgspec.structs.replace(before, **changes)
    if after == before:
        return before
    if before.revoked_at is not None:
        raise InvalidChangeError(f"key {key_id} is revoked")
    await _write(change.connection, after)
    await change.record("key.changed", key_id, differences(_settings(before), _settings(after)))
    return after


async def revoke(change: Change, key_id: str) -> Key:
    key = await of_id(change.connection, key_id)
    if key.revoked_at is not None:
        return key
    key = msgspec.structs.replace(key, revoked_at=change.at)
    await _write(change.connection, key)
    await change.record("key.revoked", key_id, {"team_id": key.team_id, "name": key.name})
    return key


async def read(
    connection: AsyncConnection, team_id: str | None = None, admin: bool | None = None, revoked: bool = False
) -> list[Key]:
    query = select(keys).order_by(keys.c.created_at, keys.c.id)
    if team_id is not None:
        query = query.where(keys.c.team_id == team_id)
    if admin is not None:
        query = query.where(_ADMIN if admin else ~_ADMIN)
    if not revoked:
        query = query.where(keys.c.revoked_at.is_(None))
    return await in_pieces(await connection.execute(query), _key)


async def of_id(connection: AsyncConnection, key_id: str) -> Key:
    row = (await connection.execute(select(keys).where(keys.c.id == key_id))).mappings().one_or_none()
    if row is None:
        raise NotFoundError(f"there is no key {key_id!r}")
    return _key(row)


async def is_any(connection: AsyncConnection) -> bool:
    """Revoked ones count: whoever had keys once does not open the door to all by revoking the last."""
    return (await connection.execute(select(keys.c.id).limit(1))).first() is not None


async def is_any_admin(connection: AsyncConnection, now: float) -> bool:
    good = _ADMIN & keys.c.revoked_at.is_(None) & (keys.c.expires_at.is_(None) | (keys.c.expires_at > now))
    return (await connection.execute(select(keys.c.id).where(good).limit(1))).first() is not None


_ADMIN = keys.c.scopes.contains("admin")


async def _write(connection: AsyncConnection, key: Key) -> None:
    await connection.execute(update(keys).where(keys.c.id == key.id).values(_row(key)))


def _settings(key: Key) -> Detail:
    """What can be set, and scopes."""
    return {
        "name": key.name,
        "scopes": " ".join(key.scopes),
        "expires_at": key.expires_at,
        **limits_row(key.limits),
    }


def _row(key: Key) -> Mapping[str, str | bytes | float | int | None]:
    row = {name: getattr(key, name) for name in key.__struct_fields__ if name not in ("limits", "scopes")}
    return {**row, **limits_row(key.limits), "scopes": " ".join(key.scopes)}


_FIELDS = [name for name in Key.__struct_fields__ if name not in ("limits", "scopes")]


def _key(row: RowMapping) -> Key:
    return Key(**{name: row[name] for name in _FIELDS}, scopes=tuple(row["scopes"].split()), limits=limits_of(row))
