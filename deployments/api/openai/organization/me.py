"""Who asks: `GET /v1/organization/me`, for pages and editors."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from deployments.api.openai.organization.fields import LimitsAnswer, seconds
from deployments.api.openai.organization.people import ProjectOfUser
from deployments.api.openai.organization.projects import Project
from deployments.api.openai.organization.route import Visit, VisitOf
from deployments.http.needs import needs
from deployments.teams.records import Key, Scope


class OwnKey(LimitsAnswer):
    """The key that was sent."""

    id: str = Field(description="Id of the key.")
    name: str = Field(description="Its name.")
    last_four: str = Field(description="How it ends.")
    scopes: list[Scope] = Field(description="What it may do.")
    expires_at: int | None = Field(description="When it ends, in Unix seconds; null: never.")


class Me(BaseModel):
    object: Literal["organization.me"] = Field(default="organization.me", description="What this is.")
    actor: str = Field(description="As the audit log names it: `key:ID`, `user:ID` or `local`.")
    admin: bool = Field(description="Whether it may do everything here.")
    user: str | None = Field(description="Who has signed in; null: it is a key.")
    key: OwnKey | None = Field(description="The key that was sent; null: a person has signed in.")
    project: Project | None = Field(description="The team of the key, with its limits, its budget and what is spent.")
    roles: list[ProjectOfUser] = Field(description="Teams of the person, and their role there.")


def add_routes(router: APIRouter) -> None:
    @router.get("/me", summary="Who am I", response_description="What is known of the caller.")
    @needs("key")
    async def me(visit: VisitOf) -> Me:
        principal, store = visit.principal, visit.administration.store
        project = None
        if principal.team is not None:
            project = Project.of(await store.team(principal.team.id), await store.spent())
        return Me(
            actor=principal.actor,
            admin=principal.is_admin,
            user=principal.user,
            key=None if principal.key is None else _own(principal.key),
            project=project,
            roles=await _roles(visit),
        )


def _own(key: Key) -> OwnKey:
    return OwnKey(
        id=key.id,
        name=key.name,
        last_four=key.last_four,
        scopes=list(key.scopes),
        expires_at=seconds(key.expires_at),
        requests_per_minute=key.limits.requests_per_minute,
        tokens_per_minute=key.limits.tokens_per_minute,
        parallel=key.limits.parallel,
    )


async def _roles(visit: Visit) -> list[ProjectOfUser]:
    roles = visit.principal.roles
    if not roles:
        return []
    teams = [team for team in await visit.administration.store.teams() if team.id in roles]
    return [ProjectOfUser(id=team.id, name=team.name, role=roles[team.id]) for team in teams]
