"""People: in which teams they are, and that they have signed in."""

from __future__ import annotations

import msgspec
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.teams.actors import administrator, person
from deployments.teams.database import keys
from deployments.teams.database.authority import check_role
from deployments.teams.database.changes import Change, Detail, differences
from deployments.teams.database.schema import members, sessions, teams
from deployments.teams.records import Member, Session
from deployments.teams.store_errors import NotFoundError


async def set_member(change: Change, member: Member) -> Member:
    await check_role(change, member.team_id, "owner")
    team = await change.connection.execute(select(teams.c.id).where(teams.c.id == member.team_id))
    if team.first() is None:
        raise NotFoundError(f"there is no team {member.team_id!r}")
    before = await _find(change.connection, member.team_id, member.user)
    if before is None:
        member = msgspec.structs.replace(member, created_at=member.created_at or change.at)
        await change.connection.execute(members.insert(), msgspec.structs.asdict(member))
        await change.record("member.added", member.team_id, {"user": member.user, **_settings(member)})
        return member
    member = msgspec.structs.replace(member, created_at=before.created_at)
    if member != before:
        where = (members.c.team_id == member.team_id) & (members.c.user == member.user)
        await change.connection.execute(update(members).where(where).values(msgspec.structs.asdict(member)))
        changed = differences(_settings(before), _settings(member))
        await change.record("member.changed", member.team_id, {"user": member.user, **changed})
    return member


async def remove_member(change: Change, team_id: str, user: str) -> None:
    """With the keys of the team that they made."""
    if await _find(change.connection, team_id, user) is None:
        raise NotFoundError(f"there is no {user!r} in team {team_id!r}")
    await keys.revoke_made_by(change, [person(user)], team_id)
    await change.connection.execute(delete(members).where(members.c.team_id == team_id, members.c.user == user))
    await change.record("member.removed", team_id, {"user": user})


async def remove_person(change: Change, user: str) -> bool:
    """Out of all teams, signed out, and with all keys that they made. False: nobody of that name was here."""
    await keys.revoke_made_by(change, [person(user), administrator(user)])
    teams_of = await change.connection.execute(select(members.c.team_id).where(members.c.user == user))
    team_ids = sorted(row.team_id for row in teams_of.all())
    for team_id in team_ids:
        await remove_member(change, team_id, user)
    return await end_sessions(change.connection, user) > 0 or bool(team_ids)


async def read_members(connection: AsyncConnection, team_id: str | None) -> list[Member]:
    query = select(members).order_by(members.c.created_at, members.c.user)
    if team_id is not None:
        query = query.where(members.c.team_id == team_id)
    return [Member(**row) for row in (await connection.execute(query)).mappings()]


async def memberships(connection: AsyncConnection, user: str) -> list[Member]:
    query = select(members).join(teams).where(members.c.user == user, teams.c.archived_at.is_(None))
    rows = await connection.execute(query.order_by(members.c.created_at, members.c.team_id))
    return [Member(**row) for row in rows.mappings()]


async def create_session(connection: AsyncConnection, digest: bytes, session: Session) -> Session:
    """Those that have expired by now are forgotten."""
    await connection.execute(delete(sessions).where(sessions.c.expires_at <= session.created_at))
    await connection.execute(sessions.insert(), {"digest": digest, **msgspec.structs.asdict(session)})
    return session


async def find_session(connection: AsyncConnection, digest: bytes, now: float) -> Session | None:
    columns = [sessions.c[name] for name in Session.__struct_fields__]
    query = select(*columns).where(sessions.c.digest == digest, sessions.c.expires_at > now)
    row = (await connection.execute(query)).mappings().one_or_none()
    return Session(**row) if row is not None else None


async def end_session(connection: AsyncConnection, digest: bytes) -> None:
    await connection.execute(delete(sessions).where(sessions.c.digest == digest))


async def end_sessions(connection: AsyncConnection, user: str) -> int:
    return (await connection.execute(delete(sessions).where(sessions.c.user == user))).rowcount


async def _find(connection: AsyncConnection, team_id: str, user: str) -> Member | None:
    query = select(members).where(members.c.team_id == team_id, members.c.user == user)
    row = (await connection.execute(query)).mappings().one_or_none()
    return Member(**row) if row is not None else None


def _settings(member: Member) -> Detail:
    return {"role": member.role, "email": member.email, "name": member.name}
