"""Keys of administrators: `/v1/organization/admin_api_keys`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from deployments.api.common.examples import example
from deployments.api.openai.organization.api_keys import redacted
from deployments.api.openai.organization.fields import ExpiryFields, Name, seconds
from deployments.api.openai.organization.listing import After, Deleted, Limit, ListPage, after
from deployments.api.openai.organization.path_ids import KeyId
from deployments.api.openai.organization.route import Visit, VisitOf
from deployments.errors import NotFoundError, shown
from deployments.http.needs import needs
from deployments.teams.records import Key, Scope


class AdminOwner(BaseModel):
    id: str = Field(description="Who made it.")
    object: Literal["organization.user"] = Field(default="organization.user", description="What that is.")
    type: Literal["user"] = Field(default="user", description="Always this.")
    role: Literal["owner"] = Field(default="owner", description="Always this.")


class AdminApiKey(BaseModel):
    """A key of an administrator, without its value."""

    id: str = Field(description="Id of the key, which is no secret.")
    object: Literal["organization.admin_api_key"] = Field(
        default="organization.admin_api_key", description="What this is."
    )
    created_at: int = Field(description="Unix seconds.")
    name: str = Field(description="Its name, for people.")
    last_four: str = Field(description="How it ends.")
    redacted_value: str = Field(description="How it begins and ends.")
    expires_at: int | None = Field(description="When it ends, in Unix seconds; null: never.")
    scopes: list[Scope] = Field(description="What it may do.")
    owner: AdminOwner = Field(description="Who made it.")


class NewAdminApiKey(AdminApiKey):
    value: str = Field(description="The key itself: here, and never again.")


class AdminKeyCreation(ExpiryFields):
    model_config = example("Make one for a script", name="billing-script", expires="90d")

    name: Name = Field(description="For people.")


def add_routes(router: APIRouter) -> None:
    @router.post("/admin_api_keys", summary="Make an administrator's key", response_description="It, with its value.")
    @needs("admin")
    async def create(body: AdminKeyCreation, visit: VisitOf) -> NewAdminApiKey:
        visit.check_admin()
        administration = visit.administration
        expires_at = body.expires_at(administration.clock())
        key, value = await administration.create_key(
            visit.actor, team_id=None, name=body.name, scopes=("admin",), expires_at=expires_at
        )
        return NewAdminApiKey(**_answer(key).model_dump(), value=value)

    @router.get("/admin_api_keys", summary="List administrators' keys", response_description="The keys.")
    @needs("admin")
    async def list_keys(
        visit: VisitOf,
        after_id: After = None,
        limit: Limit = 20,
        order: Annotated[Literal["asc", "desc"], Query(description="From oldest, or from newest.")] = "asc",
    ) -> ListPage[AdminApiKey]:
        """Revoked ones are not listed."""
        visit.check_admin()
        keys = await visit.administration.store.keys(admin=True, revoked=True)
        in_order = keys if order == "asc" else keys[::-1]
        found = after(in_order, after_id, limit, _id, lambda key: key.revoked_at is None)
        return ListPage[AdminApiKey].of(found, _answer, _id)

    @router.get("/admin_api_keys/{key_id}", summary="Describe an administrator's key", response_description="The key.")
    @needs("admin")
    async def retrieve(key_id: KeyId, visit: VisitOf) -> AdminApiKey:
        return _answer(await _admin_key(visit, key_id))

    @router.delete("/admin_api_keys/{key_id}", summary="Revoke an administrator's key", response_description="It is.")
    @needs("admin")
    async def revoke(key_id: KeyId, visit: VisitOf) -> Deleted:
        key = await _admin_key(visit, key_id)
        await visit.administration.store.revoke_key(visit.actor, key.id)
        return Deleted(id=key.id, object="organization.admin_api_key.deleted")


async def _admin_key(visit: Visit, key_id: str) -> Key:
    visit.check_admin()
    key = await visit.administration.store.key(key_id)
    if key.team_id is not None:
        raise NotFoundError(f"There is no administrator's key {shown(key_id)}.")
    return key


def _answer(key: Key) -> AdminApiKey:
    return AdminApiKey(
        id=key.id,
        created_at=int(key.created_at),
        name=key.name,
        last_four=key.last_four,
        redacted_value=redacted(key),
        expires_at=seconds(key.expires_at),
        scopes=list(key.scopes),
        owner=AdminOwner(id=key.created_by),
    )


def _id(key: Key) -> str:
    return key.id
