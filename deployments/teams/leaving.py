"""Who leaves a team loses the keys of it that they made."""

from __future__ import annotations

from typing import Protocol

from deployments.teams import actors
from deployments.teams.records import Key


class LeavingStore(Protocol):
    """What is needed of `deployments.teams.store.Store`."""

    async def keys(self, team_id: str | None = None) -> list[Key]: ...
    async def revoke_key(self, actor: str, key_id: str) -> Key: ...
    async def remove_member(self, actor: str, team_id: str, user: str) -> None: ...


async def leave_team(store: LeavingStore, actor: str, team_id: str, user: str) -> None:
    """The keys go first: what is broken off in between can be done again. Raises StoreError."""
    await revoke_keys_of(store, actor, user, team_id)
    await store.remove_member(actor, team_id, user)


async def revoke_keys_of(store: LeavingStore, actor: str, user: str, team_id: str | None = None) -> None:
    """team_id: those of this team; None: of all. Raises StoreError."""
    for key in await store.keys(team_id=team_id):
        if key.created_by == actors.person(user):
            await store.revoke_key(actor, key.id)
