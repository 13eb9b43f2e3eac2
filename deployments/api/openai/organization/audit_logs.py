"""What was changed by whom: `/v1/organization/audit_logs`, and whether the log is as it was written."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from deployments.api.openai.organization.route import VisitOf
from deployments.errors import InvalidRequestError, shown
from deployments.http.needs import needs
from deployments.teams.actors import PROVIDER, user_of
from deployments.teams.records import Audit
from deployments.teams.store_errors import AuditBrokenError

_TYPES: Final = {
    "team.created": "project.created",
    "team.changed": "project.updated",
    "team.archived": "project.archived",
    "key.created": "api_key.created",
    "key.changed": "api_key.updated",
    "key.revoked": "api_key.deleted",
    "member.added": "user.added",
    "member.changed": "user.updated",
    "member.removed": "user.deleted",
}
"""OpenAI's names of what happened; others are this server's own."""

_ACTIONS: Final = {theirs: ours for ours, theirs in _TYPES.items()}

_ID = "audit_"

Cursor = Query(max_length=40, description="Id of an entry.")


class ActorUser(BaseModel):
    id: str = Field(description="As the identity provider has it.")


class ActorSession(BaseModel):
    user: ActorUser = Field(description="Who had signed in.")


class ActorKey(BaseModel):
    id: str = Field(description="Id of the key.")
    type: Literal["service_account"] = Field(default="service_account", description="Always this.")


class Actor(BaseModel):
    type: Literal["api_key", "session", "local", "provider"] = Field(
        description="local: a command on the server's machine; provider: the identity provider. OpenAI has neither."
    )
    api_key: ActorKey | None = Field(description="The key.")
    session: ActorSession | None = Field(description="The person.")


class AuditEntry(BaseModel):
    id: str = Field(description="`audit_` and its number.")
    object: Literal["organization.audit_log"] = Field(default="organization.audit_log", description="What this is.")
    type: str = Field(description="What happened, in OpenAI's words where it has one.")
    effective_at: int = Field(description="Unix seconds.")
    actor: Actor = Field(description="Who did it.")
    number: int = Field(description="From 1 on, without gaps.")
    action: str = Field(description="What happened, in this server's words.")
    actor_id: str = Field(description="`local`, `provider`, `key:ID` or `user:ID`.")
    subject: str = Field(description="Id of the team or the key, or name of the model.")
    detail: dict[str, str | int | float | bool | None] = Field(description="What changed; no secrets.")
    previous: str = Field(description="Digest of the entry before.")
    digest: str = Field(description="SHA-256 over this entry with the digest before.")

    @classmethod
    def of(cls, row: Audit) -> AuditEntry:
        return cls(
            id=f"{_ID}{row.number}",
            type=_TYPES.get(row.action, row.action),
            effective_at=int(row.at),
            actor=_actor(row.actor),
            number=row.number,
            action=row.action,
            actor_id=row.actor,
            subject=row.subject,
            detail=row.detail,
            previous=row.previous,
            digest=row.digest,
        )


class AuditPage(BaseModel):
    object: Literal["list"] = Field(default="list", description="What this is.")
    data: list[AuditEntry] = Field(description="From newest to oldest.")
    first_id: str | None = Field(description="Id of the first one.")
    last_id: str | None = Field(description="Id of the last one: the next page comes after it.")
    has_more: bool = Field(description="Whether there is a next page.")


class Verification(BaseModel):
    object: Literal["organization.audit_log.verification"] = Field(
        default="organization.audit_log.verification", description="What this is."
    )
    intact: bool = Field(description="Whether every entry is as it was written.")
    entries: int | None = Field(description="How many there are; null where it is not intact.")
    broken_at: int | None = Field(description="Number of the first that does not fit.")
    reason: str | None = Field(description="Why not.")


def add_routes(router: APIRouter) -> None:
    @router.get("/audit_logs", summary="What was changed by whom", response_description="Entries, from the newest on.")
    @needs("admin")
    async def list_entries(
        visit: VisitOf,
        after: Annotated[str | None, Cursor] = None,
        before: Annotated[str | None, Cursor] = None,
        limit: Annotated[int, Query(ge=1, le=100, description="Most entries of a page.")] = 20,
        event_types: Annotated[list[str] | None, Query(max_length=1, description="Of this type only.")] = None,
        actor_ids: Annotated[list[str] | None, Query(max_length=1, description="By this key or person only.")] = None,
        resource_ids: Annotated[list[str] | None, Query(max_length=1, description="Of this one only.")] = None,
    ) -> AuditPage:
        """`after` goes on to older ones, `before` to newer ones than the entry named."""
        visit.check_admin()
        asked = event_types[0] if event_types else None
        rows = await visit.administration.store.audit(
            after=0 if before is None else _number(before, "before"),
            before=None if after is None else _number(after, "after"),
            limit=limit + 1,
            newest_first=before is None,
            action=None if asked is None else _ACTIONS.get(asked, asked),
            actor=_actor_of(actor_ids[0]) if actor_ids else None,
            subject=resource_ids[0] if resource_ids else None,
        )
        page = rows[:limit] if before is None else rows[:limit][::-1]
        entries = [AuditEntry.of(row) for row in page]
        first_id, last_id = (entries[0].id, entries[-1].id) if entries else (None, None)
        return AuditPage(data=entries, first_id=first_id, last_id=last_id, has_more=len(rows) > limit)

    @router.get("/audit_logs/verify", summary="Is the log as it was written", response_description="Whether it is.")
    @needs("admin")
    async def verify(visit: VisitOf) -> Verification:
        """Reads all of it."""
        visit.check_admin()
        try:
            entries = await visit.administration.store.verify_audit()
        except AuditBrokenError as error:
            return Verification(intact=False, entries=None, broken_at=error.number, reason=str(error))
        return Verification(intact=True, entries=entries, broken_at=None, reason=None)


def _number(cursor: str, param: str) -> int:
    number = cursor.removeprefix(_ID)
    if number == cursor or not (number.isascii() and number.isdecimal()) or len(number) > 18:
        raise InvalidRequestError(f"There is no entry {shown(cursor)}.", param=param)
    return int(number)


def _actor_of(actor_id: str) -> str:
    """OpenAI names keys and people by their ids alone."""
    if actor_id in ("local", PROVIDER) or actor_id.startswith(("key:", "user:")):
        return actor_id
    return f"key:{actor_id}" if actor_id.startswith("key_") else f"user:{actor_id}"


def _actor(actor: str) -> Actor:
    if (user := user_of(actor)) is not None:
        return Actor(type="session", api_key=None, session=ActorSession(user=ActorUser(id=user)))
    if actor.startswith("key:"):
        return Actor(type="api_key", api_key=ActorKey(id=actor.removeprefix("key:")), session=None)
    return Actor(type="provider" if actor == PROVIDER else "local", api_key=None, session=None)
