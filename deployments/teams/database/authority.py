"""Whether a person may still do what they ask for.

What a server knows of them is seconds old. Whoever was put out in the meantime must leave nothing behind, so what lets
people in is checked once more where it is changed.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select

from deployments.teams.actors import user_of
from deployments.teams.database.changes import Change
from deployments.teams.database.schema import members, sessions
from deployments.teams.records import Role
from deployments.teams.store_errors import NotAllowedError


async def check_role(change: Change, team_id: str | None, *roles: Role) -> bool:
    """True: they have one of the roles in the team; False: they are an administrator. Others than people may do it.

    Raises NotAllowedError.
    """
    user = user_of(change.actor)
    if user is None or await _has_role(change, user, team_id, roles):
        return True
    if not await _is_administrator(change, user):
        raise NotAllowedError("you may not do this any more")
    return False


async def _has_role(change: Change, user: str, team_id: str | None, roles: Collection[Role]) -> bool:
    found = select(members.c.role).where(
        members.c.team_id == team_id, members.c.user == user, members.c.role.in_(roles)
    )
    return (await change.connection.execute(found)).first() is not None


async def _is_administrator(change: Change, user: str) -> bool:
    """By a session that has not ended."""
    found = select(sessions.c.user).where(
        sessions.c.user == user, sessions.c.admin.is_(True), sessions.c.expires_at > change.at
    )
    return (await change.connection.execute(found.limit(1))).first() is not None
