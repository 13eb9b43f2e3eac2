"""Keys of a team: `/v1/organization/projects/{project_id}/api_keys` and `.../service_accounts`.

OpenAI gives keys to people and to service accounts, which are what a key's value comes with. Here a key is its own
account: those that no person made are listed as service accounts too, by the same ids.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from msgspec import UNSET
from pydantic import BaseModel, Field

from deployments.api.common.examples import example
from deployments.api.openai.organization.fields import Body, ExpiryFields, LimitFields, LimitsAnswer, Name, seconds
from deployments.api.openai.organization.listing import After, Deleted, Limit, ListPage, after
from deployments.api.openai.organization.path_ids import AccountId, KeyId, ProjectId
from deployments.api.openai.organization.route import Visit, VisitOf
from deployments.errors import InvalidRequestError
from deployments.http.needs import needs
from deployments.teams.actors import person, user_of
from deployments.teams.administration import TEAM_SCOPES, NewKey
from deployments.teams.keys import PREFIX
from deployments.teams.permissions import check_team
from deployments.teams.records import MAKERS, NO_LIMITS, Key, Limits, Member, Scope, Team

TeamScope = Literal["generate", "usage", "metrics"]
_USUAL: list[TeamScope] = ["generate", "usage"]


class OwnerAccount(BaseModel):
    id: str = Field(description="Who it is.")
    created_at: int = Field(description="Unix seconds.")
    name: str = Field(description="Its name.")
    role: str = Field(description="Its role in the team.")


class OwnerPerson(OwnerAccount):
    email: str = Field(description="As the identity provider said last.")


class Owner(BaseModel):
    type: Literal["user", "service_account"] = Field(description="Whether a person made the key for themselves.")
    user: OwnerPerson | None = Field(description="The person.")
    service_account: OwnerAccount | None = Field(description="The account.")


class ProjectApiKey(LimitsAnswer):
    """A key of a team, without its value."""

    id: str = Field(description="Id of the key, which is no secret.")
    object: Literal["organization.project.api_key"] = Field(
        default="organization.project.api_key", description="What this is."
    )
    created_at: int = Field(description="Unix seconds.")
    created_by: str = Field(description="Who made it: `local`, `key:ID`, `user:ID`, or `admin:ID` for others.")
    name: str = Field(description="Its name, for people.")
    project_id: str = Field(description="Id of the team.")
    last_four: str = Field(description="How it ends.")
    redacted_value: str = Field(description="How it begins and ends.")
    scopes: list[Scope] = Field(description="What it may do.")
    expires_at: int | None = Field(description="When it ends, in Unix seconds; null: never.")
    owner: Owner = Field(description="Whose it is.")
    owner_project_access: Literal["active", "inactive"] = Field(
        description="Whether that person makes keys of the team still: else it is not good."
    )


class NewApiKey(ProjectApiKey):
    value: str = Field(description="The key itself: here, and never again.")


class KeyCreation(ExpiryFields, LimitFields):
    model_config = example("Make a key for 90 days", name="editor", scopes=["generate", "usage"], expires="90d")

    name: Name = Field(description="For people.")
    scopes: list[TeamScope] = Field(
        default=_USUAL,
        min_length=1,
        max_length=3,
        description="generate: completions; usage: what its team uses; metrics: `/metrics`, from administrators only.",
    )


class KeyChange(ExpiryFields, LimitFields):
    model_config = example("Rename it and limit it", name="nightly", requests_per_minute=60)

    name: Name | None = Field(default=None, description="For people.")
    scopes: list[str] | None = Field(default=None, description="Refused: what a key may do never changes.")


class Rotation(Body):
    model_config = example("Let the old one go on for an hour", grace_seconds=3600)

    grace_seconds: int = Field(default=0, ge=0, le=30 * 86_400, description="The old key goes on for so long.")


class ServiceAccountCreation(ExpiryFields):
    model_config = example("Make one for a program", name="review-bot", expires="365d")

    name: Name = Field(description="For people.")


class ServiceAccount(OwnerAccount):
    object: Literal["organization.project.service_account"] = Field(
        default="organization.project.service_account", description="What this is."
    )


class ServiceAccountKey(BaseModel):
    id: str = Field(description="Id of the key.")
    object: Literal["organization.project.service_account.api_key"] = Field(
        default="organization.project.service_account.api_key", description="What this is."
    )
    created_at: int = Field(description="Unix seconds.")
    name: str = Field(description="Its name.")
    value: str = Field(description="The key itself: here, and never again.")
    expires_at: int | None = Field(description="When it ends, in Unix seconds; null: never.")


class NewServiceAccount(ServiceAccount):
    api_key: ServiceAccountKey = Field(description="Its key.")


def add_routes(router: APIRouter) -> None:
    keys, one = "/projects/{project_id}/api_keys", "/projects/{project_id}/api_keys/{key_id}"

    @router.post(keys, summary="Make a key of a team", response_description="The key, with its value.")
    @needs("key")
    async def create(project_id: ProjectId, body: KeyCreation, visit: VisitOf) -> NewApiKey:
        team = await visit.team(project_id, "keys.create")
        if "metrics" in body.scopes:
            visit.check_admin()
        if body.limits_sent:
            check_team(visit.principal, "keys.change", team.id)
        new = await _create(visit, team, body.name, body, tuple(dict.fromkeys(body.scopes)), body.limits(NO_LIMITS))
        return _new(new, await _members(visit, team))

    @router.get(keys, summary="List the keys of a team", response_description="The keys.")
    @needs("key")
    async def list_keys(
        project_id: ProjectId,
        visit: VisitOf,
        after_id: After = None,
        limit: Limit = 20,
        owner_project_access: Annotated[
            Literal["active", "inactive", "any"], Query(description="Those whose person is in the team, or is not.")
        ] = "any",
    ) -> ListPage[ProjectApiKey]:
        """Revoked ones are not listed."""
        team = await visit.team(project_id, "keys.read")
        members = await _members(visit, team)

        def shows(key: Key) -> bool:
            return key.revoked_at is None and owner_project_access in ("any", _access(key, members))

        found = after(await _all(visit, team), after_id, limit, _id, shows)
        return ListPage[ProjectApiKey].of(found, lambda key: _answer(key, members), _id)

    @router.get(one, summary="Describe a key of a team", response_description="The key, without its value.")
    @needs("key")
    async def retrieve(project_id: ProjectId, key_id: KeyId, visit: VisitOf) -> ProjectApiKey:
        team = await visit.team(project_id, "keys.read")
        return _answer(await visit.key(team, key_id), await _members(visit, team))

    @router.post(one, summary="Change a key of a team", response_description="The key, without its value.")
    @needs("key")
    async def update(project_id: ProjectId, key_id: KeyId, body: KeyChange, visit: VisitOf) -> ProjectApiKey:
        team, key = await _to_change(visit, project_id, key_id)
        if body.scopes is not None:
            raise InvalidRequestError("What a key may do never changes: make another one.", param="scopes")
        if body.limits_sent:
            check_team(visit.principal, "keys.change", team.id)
        expires_at = body.expires_at(visit.administration.clock())
        changed = await visit.administration.store.set_key(
            visit.actor,
            key.id,
            name=UNSET if body.name is None else body.name,
            limits=body.limits(key.limits),
            expires_at=UNSET if expires_at is None else expires_at,
        )
        return _answer(changed, await _members(visit, team))

    @router.post(f"{one}/rotate", summary="Replace a key of a team", response_description="The new key, and its value.")
    @needs("key")
    async def rotate(project_id: ProjectId, key_id: KeyId, body: Rotation, visit: VisitOf) -> NewApiKey:
        """The new one may do the same, and lives as long from now as the old one did."""
        team, key = await _to_change(visit, project_id, key_id)
        new = await visit.administration.rotate_key(visit.actor, key, body.grace_seconds)
        return _new(new, await _members(visit, team))

    @router.delete(one, summary="Revoke a key of a team", response_description="It is revoked.")
    @needs("key")
    async def revoke(project_id: ProjectId, key_id: KeyId, visit: VisitOf) -> Deleted:
        _, key = await _to_change(visit, project_id, key_id)
        await visit.administration.store.revoke_key(visit.actor, key.id)
        return Deleted(id=key.id, object="organization.project.api_key.deleted")


def add_service_account_routes(router: APIRouter) -> None:
    accounts, one = "/projects/{project_id}/service_accounts", "/projects/{project_id}/service_accounts/{account_id}"

    @router.post(accounts, summary="Make a service account: a key", response_description="It, with its key's value.")
    @needs("key")
    async def create(project_id: ProjectId, body: ServiceAccountCreation, visit: VisitOf) -> NewServiceAccount:
        team = await visit.team(project_id, "keys.create")
        key, value = await _create(visit, team, body.name, body, TEAM_SCOPES)
        shown = ServiceAccountKey(
            id=key.id,
            created_at=int(key.created_at),
            name=key.name,
            value=value,
            expires_at=seconds(key.expires_at),
        )
        return NewServiceAccount(**_account(key).model_dump(), api_key=shown)

    @router.get(accounts, summary="List service accounts", response_description="The accounts.")
    @needs("key")
    async def list_accounts(
        project_id: ProjectId,
        visit: VisitOf,
        after_id: After = None,
        limit: Limit = 20,
    ) -> ListPage[ServiceAccount]:
        """The keys that no person made for themselves."""
        team = await visit.team(project_id, "keys.read")

        def shows(key: Key) -> bool:
            return key.revoked_at is None and user_of(key.created_by) is None

        found = after(await _all(visit, team), after_id, limit, _id, shows)
        return ListPage[ServiceAccount].of(found, _account, _id)

    @router.get(one, summary="Describe a service account", response_description="The account.")
    @needs("key")
    async def retrieve(project_id: ProjectId, account_id: AccountId, visit: VisitOf) -> ServiceAccount:
        return _account(await visit.key(await visit.team(project_id, "keys.read"), account_id))

    @router.delete(one, summary="Revoke a service account's key", response_description="It is revoked.")
    @needs("key")
    async def revoke(project_id: ProjectId, account_id: AccountId, visit: VisitOf) -> Deleted:
        _, key = await _to_change(visit, project_id, account_id)
        await visit.administration.store.revoke_key(visit.actor, key.id)
        return Deleted(id=key.id, object="organization.project.service_account.deleted")


async def _create(
    visit: Visit, team: Team, name: str, body: ExpiryFields, scopes: tuple[Scope, ...], limits: Limits = NO_LIMITS
) -> NewKey:
    administration = visit.administration
    expires_at = body.expires_at(administration.clock())
    return await administration.create_key(
        visit.actor, team_id=team.id, name=name, scopes=scopes, expires_at=expires_at, limits=limits
    )


async def _to_change(visit: Visit, project_id: str, key_id: str) -> tuple[Team, Key]:
    """Their own keys members change, others' only owners."""
    team = await visit.team(project_id, "keys.change_own")
    key = await visit.key(team, key_id)
    if visit.principal.user is None or key.created_by != person(visit.principal.user):
        check_team(visit.principal, "keys.change", team.id)
    return team, key


async def _all(visit: Visit, team: Team) -> list[Key]:
    return await visit.administration.store.keys(team_id=team.id, revoked=True)


async def _members(visit: Visit, team: Team) -> dict[str, Member]:
    return {member.user: member for member in await visit.administration.store.members(team.id)}


def _new(new: NewKey, members: dict[str, Member]) -> NewApiKey:
    return NewApiKey(**_answer(new.key, members).model_dump(), value=new.value)


def _answer(key: Key, members: dict[str, Member]) -> ProjectApiKey:
    assert key.team_id is not None
    return ProjectApiKey(
        id=key.id,
        created_at=int(key.created_at),
        created_by=key.created_by,
        name=key.name,
        project_id=key.team_id,
        last_four=key.last_four,
        redacted_value=redacted(key),
        scopes=list(key.scopes),
        expires_at=seconds(key.expires_at),
        requests_per_minute=key.limits.requests_per_minute,
        tokens_per_minute=key.limits.tokens_per_minute,
        parallel=key.limits.parallel,
        owner=_owner(key, members),
        owner_project_access=_access(key, members),
    )


def redacted(key: Key) -> str:
    return f"{PREFIX}...{key.last_four}"


def _owner(key: Key, members: dict[str, Member]) -> Owner:
    if (user := user_of(key.created_by)) is None:
        return Owner(type="service_account", user=None, service_account=_account(key))
    member = members.get(user, Member(user=user, team_id=key.team_id or "", role="viewer"))
    found = OwnerPerson(
        id=user,
        created_at=int(member.created_at),
        name=member.name or user,
        role=member.role if user in members else "none",
        email=member.email or "",
    )
    return Owner(type="user", user=found, service_account=None)


def _access(key: Key, members: dict[str, Member]) -> Literal["active", "inactive"]:
    user = user_of(key.created_by)
    return "active" if user is None or (user in members and members[user].role in MAKERS) else "inactive"


def _account(key: Key) -> ServiceAccount:
    return ServiceAccount(id=key.id, created_at=int(key.created_at), name=key.name, role="member")


def _id(key: Key) -> str:
    return key.id
