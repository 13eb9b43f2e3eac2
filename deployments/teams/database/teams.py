"""Teams, by their ids and names."""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Mapping

import msgspec
from sqlalchemy import RowMapping, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.teams.database import keys
from deployments.teams.database.changes import Change, Detail, differences
from deployments.teams.database.connections import in_pieces
from deployments.teams.database.limits import checked_number, limits_of, limits_row
from deployments.teams.database.schema import teams
from deployments.teams.records import Budget, Limits, ServiceClass, Team
from deployments.teams.store_errors import InvalidChangeError, NameTakenError, NotFoundError
from model.request import LEAST_WEIGHT, MOST_WEIGHT

_NAME = re.compile(r"[a-z0-9._-]{1,64}", re.ASCII)
_TAKEN = ("default", "other")
"""Of metric labels: who asks without a key, and teams that are too many to have a label each."""

_OF_PATHS = (".", "..")
"""Clients take these out of the paths of routes."""

Settable = str | float | Limits | Budget | None


async def create(
    change: Change, name: str, weight: float, service_class: ServiceClass, limits: Limits, budget: Budget | None
) -> Team:
    team = Team(
        id=f"team_{uuid.uuid4()}",
        name=name,
        created_at=change.at,
        weight=weight,
        service_class=service_class,
        limits=limits,
        budget=budget,
        cache_root=secrets.token_hex(16),
    )
    await _check(change.connection, team)
    await change.connection.execute(teams.insert(), _row(team))
    settings = {name: value for name, value in _settings(team).items() if value is not None}
    await change.record("team.created", team.id, settings)
    return team


async def alter(change: Change, team_id: str, changes: Mapping[str, Settable]) -> Team:
    """changes: values of fields of the team."""
    before = await of_id(change.connection, team_id)
    after = msgspec.structs.replace(before, **changes)
    if after == before:
        return before
    if before.archived_at is not None:
        raise InvalidChangeError(f"team {before.name} is archived")
    await _check(change.connection, after)
    await _write(change.connection, after)
    await change.record("team.changed", team_id, differences(_settings(before), _settings(after)))
    return after


async def archive(change: Change, team_id: str) -> Team:
    team = await of_id(change.connection, team_id)
    if team.archived_at is not None:
        return team
    for key in await keys.read(change.connection, team_id=team_id):
        await keys.revoke(change, key.id)
    team = msgspec.structs.replace(team, archived_at=change.at)
    await _write(change.connection, team)
    await change.record("team.archived", team_id, {"name": team.name})
    return team


async def accept_terms(change: Change, team_id: str, version: str) -> Team:
    team = await of_id(change.connection, team_id)
    team = msgspec.structs.replace(
        team, terms_version=version, terms_accepted_by=change.actor, terms_accepted_at=change.at
    )
    await _write(change.connection, team)
    await change.record("terms.accepted", team_id, {"version": version})
    return team


async def read(connection: AsyncConnection, archived: bool) -> list[Team]:
    query = select(teams).order_by(teams.c.name, teams.c.created_at)
    if not archived:
        query = query.where(teams.c.archived_at.is_(None))
    return await in_pieces(await connection.execute(query), _team)


async def of_id(connection: AsyncConnection, team_id: str) -> Team:
    row = (await connection.execute(select(teams).where(teams.c.id == team_id))).mappings().one_or_none()
    if row is None:
        raise NotFoundError(f"there is no team {team_id!r}")
    return _team(row)


async def find(connection: AsyncConnection, id_or_name: str) -> Team:
    """A name may look like an id: the id goes first."""
    here = (teams.c.name == id_or_name) & teams.c.archived_at.is_(None)
    found = (await connection.execute(select(teams).where(or_(teams.c.id == id_or_name, here)))).mappings().all()
    if not found:
        raise NotFoundError(f"there is no team {id_or_name!r}")
    return _team(min(found, key=lambda row: row["id"] != id_or_name))


async def _check(connection: AsyncConnection, team: Team) -> None:
    if not _NAME.fullmatch(team.name) or team.name in _OF_PATHS:
        raise InvalidChangeError(f"{team.name!r} is no name of a team: 1 to 64 of a-z, 0-9, '-', '_' and '.'")
    if team.name in _TAKEN:
        raise InvalidChangeError(f"no team can be called {team.name}: that is a label of the metrics")
    if not LEAST_WEIGHT <= team.weight <= MOST_WEIGHT:
        raise InvalidChangeError(f"a weight of {team.weight} is none: {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}")
    if team.budget is not None:
        checked_number("budget", team.budget.amount)
    taken = (teams.c.name == team.name) & teams.c.archived_at.is_(None) & (teams.c.id != team.id)
    if (await connection.execute(select(teams.c.id).where(taken))).first() is not None:
        raise NameTakenError(f"there is a team {team.name} already")


async def _write(connection: AsyncConnection, team: Team) -> None:
    await connection.execute(update(teams).where(teams.c.id == team.id).values(_row(team)))


def _settings(team: Team) -> Detail:
    """What can be set."""
    row = _row(team)
    fixed = ("id", "created_at", "cache_root", "archived_at")
    return {name: value for name, value in row.items() if name not in fixed and not name.startswith("terms_")}


def _row(team: Team) -> dict[str, str | int | float | bool | None]:
    budget = team.budget
    row = {name: getattr(team, name) for name in team.__struct_fields__ if name not in ("limits", "budget")}
    return {
        **row,
        **limits_row(team.limits),
        "budget_amount": budget.amount if budget else None,
        "budget_period": budget.period if budget else None,
        "budget_hard": budget.hard if budget else None,
    }


def _team(row: RowMapping) -> Team:
    fields = {name: row[name] for name in Team.__struct_fields__ if name not in ("limits", "budget")}
    budget = None
    if row["budget_amount"] is not None:
        budget = Budget(amount=row["budget_amount"], period=row["budget_period"], hard=row["budget_hard"])
    return Team(**fields, limits=limits_of(row), budget=budget)
