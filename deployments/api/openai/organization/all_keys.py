"""Every key there is, of teams and of administrators: `/v1/organization/api_keys`, which OpenAI has not."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from deployments.api.openai.organization.api_keys import Rotation
from deployments.api.openai.organization.fields import LimitsAnswer, seconds
from deployments.api.openai.organization.listing import After, Deleted, ListPage, after
from deployments.api.openai.organization.path_ids import KeyId
from deployments.api.openai.organization.route import VisitOf
from deployments.http.needs import needs
from deployments.teams.records import Key, Scope

MOST_KEYS = 500
"""Of a page: more than OpenAI's lists have, since this one is read whole, and each page reads the table."""


class AnyKey(LimitsAnswer):
    """A key, without its value."""

    id: str = Field(description="Id of the key, which is no secret.")
    object: Literal["organization.api_key"] = Field(default="organization.api_key", description="What this is.")
    created_at: int = Field(description="Unix seconds.")
    created_by: str = Field(description="Who made it: `local`, `key:ID`, `user:ID`, or `admin:ID` for others.")
    name: str = Field(description="Its name, for people.")
    project_id: str | None = Field(description="Id of its team; null: it is an administrator's.")
    project_name: str | None = Field(description="Name of its team.")
    last_four: str = Field(description="How it ends.")
    scopes: list[Scope] = Field(description="What it may do.")
    expires_at: int | None = Field(description="When it ends, in Unix seconds; null: never.")


class RotatedKey(BaseModel):
    id: str = Field(description="Id of the new key.")
    object: Literal["organization.api_key"] = Field(default="organization.api_key", description="What this is.")
    replaces: str = Field(description="Id of the old one.")
    value: str = Field(description="The key itself: here, and never again.")


def add_routes(router: APIRouter) -> None:
    @router.get("/api_keys", summary="List all keys", response_description="The keys, from the oldest on.")
    @needs("admin")
    async def list_keys(
        visit: VisitOf,
        after_id: After = None,
        limit: Annotated[int, Query(ge=1, le=MOST_KEYS, description="Most keys of a page.")] = 20,
    ) -> ListPage[AnyKey]:
        """Revoked ones are not listed."""
        visit.check_admin()
        store = visit.administration.store
        found = after(await store.keys(revoked=True), after_id, limit, _id, lambda key: key.revoked_at is None)
        teams = {team.id: team.name for team in await store.teams(archived=True)}
        return ListPage[AnyKey].of(found, lambda key: _answer(key, teams.get(key.team_id or "")), _id)

    @router.post("/api_keys/{key_id}/rotate", summary="Replace any key", response_description="The new key's value.")
    @needs("admin")
    async def rotate(key_id: KeyId, body: Rotation, visit: VisitOf) -> RotatedKey:
        """The new one may do the same, and lives as long from now as the old one did."""
        visit.check_admin()
        old = await visit.administration.store.key(key_id)
        new = await visit.administration.rotate_key(visit.actor, old, body.grace_seconds)
        return RotatedKey(id=new.key.id, replaces=old.id, value=new.value)

    @router.delete("/api_keys/{key_id}", summary="Revoke any key", response_description="It is revoked.")
    @needs("admin")
    async def revoke(key_id: KeyId, visit: VisitOf) -> Deleted:
        visit.check_admin()
        key = await visit.administration.store.revoke_key(visit.actor, key_id)
        return Deleted(id=key.id, object="organization.api_key.deleted")


def _answer(key: Key, team: str | None) -> AnyKey:
    return AnyKey(
        id=key.id,
        created_at=int(key.created_at),
        created_by=key.created_by,
        name=key.name,
        project_id=key.team_id,
        project_name=team,
        last_four=key.last_four,
        scopes=list(key.scopes),
        expires_at=seconds(key.expires_at),
        requests_per_minute=key.limits.requests_per_minute,
        tokens_per_minute=key.limits.tokens_per_minute,
        parallel=key.limits.parallel,
    )


def _id(key: Key) -> str:
    return key.id
