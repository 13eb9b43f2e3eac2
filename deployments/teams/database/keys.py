"""Keys: of each what tells it again, never itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec
from sqlalchemy import RowMapping, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.teams import actors
from deployments.teams.database.authority import check_role
from deployments.teams.database.changes import Change, Detail, differences
from deployments.teams.database.connections import in_pieces
from deployments.teams.database.limits import limits_of, limits_row
from deployments.teams.database.schema import keys, members, teams
from deployments.teams.records import MAKERS, Key, Limits
from deployments.teams.store_errors import InvalidChangeError, NotFoundError

MOST_OF_PERSON = 25
"""Keys of a team that one person has made and that are good."""

MOST_OF_TEAM = 1000


async def add(change: Change, key: Key, instead_of: str | None = None) -> Key:
    """instead_of: id of a key that is not counted, since this one takes its place."""
    is_their_own = await check_role(change, key.team_id, *MAKERS)
    if not is_their_own and key.team_id is not None:
        key = msgspec.structs.replace(key, created_by=actors.administrator(str(actors.user_of(change.actor))))
    if key.team_id is not None:
        team = (await change.connection.execute(select(teams.c.archived_at).where(teams.c.id == key.team_id))).first()
        if team is None:
            raise NotFoundError(f"there is no team {key.team_id!r}")
        if team.archived_at is not None:
            raise InvalidChangeError("a team that is archived gets no keys")
        if "admin" in key.scopes:
            raise InvalidChangeError("administrators' keys belong to no team")
        await _check_room(change, key, key.team_id, instead_of)
    await change.connection.execute(keys.insert(), _row(key))
    await change.record("key.created", key.id, {"team_id": key.team_id, **_settings(key)})
    return key


async def replace(change: Change, old_id: str, key: Key, ends_at: float | None) -> Key:
    """ends_at: of the old one; None: it is revoked."""
    if (await of_id(change.connection, old_id)).revoked_at is not None:
        raise InvalidChangeError(f"key {old_id} is revoked")
    added = await add(change, key, instead_of=old_id)
    if ends_at is None:
        await revoke(change, old_id)
    else:
        await alter(change, old_id, {"expires_at": ends_at})
    return added


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


async def revoke_made_by(change: Change, makers: Collection[str], team_id: str | None = None) -> None:
    """makers: as `created_by` names them. team_id: of this team only."""
    mine = select(keys.c.id).where(keys.c.created_by.in_(makers), keys.c.revoked_at.is_(None))
    if team_id is not None:
        mine = mine.where(keys.c.team_id == team_id)
    for row in (await change.connection.execute(mine.order_by(keys.c.created_at, keys.c.id))).all():
        await revoke(change, row.id)


async def read_good(connection: AsyncConnection) -> list[Key]:
    """Not revoked, and not of somebody who makes none in the team any more."""
    person = actors.person("")
    maker = (members.c.team_id == keys.c.team_id) & (members.c.user == func.substr(keys.c.created_by, len(person) + 1))
    is_maker = select(members.c.user).where(maker, members.c.role.in_(MAKERS)).exists()
    of_nobody = keys.c.team_id.is_(None) | (func.substr(keys.c.created_by, 1, len(person)) != person)
    query = select(keys).where(keys.c.revoked_at.is_(None), of_nobody | is_maker)
    return await in_pieces(await connection.execute(query), _key)


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


async def pepper_ids(connection: AsyncConnection) -> set[str]:
    """With which those were hashed that are not revoked."""
    query = select(keys.c.pepper_id).where(keys.c.revoked_at.is_(None)).distinct()
    return set((await connection.execute(query)).scalars())


async def is_any(connection: AsyncConnection) -> bool:
    """Revoked ones count: whoever had keys once does not open the door to all by revoking the last."""
    return (await connection.execute(select(keys.c.id).limit(1))).first() is not None


async def _check_room(change: Change, key: Key, team_id: str, instead_of: str | None) -> None:
    """Raises InvalidChangeError where there are as many keys as there may be."""
    good = keys.c.revoked_at.is_(None) & (keys.c.expires_at.is_(None) | (keys.c.expires_at > change.at))
    count = select(func.count()).where(keys.c.team_id == team_id, good)
    if instead_of is not None:
        count = count.where(keys.c.id != instead_of)
    if (await change.connection.execute(count)).scalar_one() >= MOST_OF_TEAM:
        raise InvalidChangeError(f"a team has {MOST_OF_TEAM} keys at most: revoke one that nobody needs")
    if actors.user_of(key.created_by) is not None:
        mine = count.where(keys.c.created_by == key.created_by)
        if (await change.connection.execute(mine)).scalar_one() >= MOST_OF_PERSON:
            raise InvalidChangeError(f"somebody has {MOST_OF_PERSON} keys of a team at most: revoke one of yours")


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
