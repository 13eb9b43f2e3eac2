"""From who somebody is, at the identity provider, to a session and to what they may do here."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, get_args

from deployments.sign_on_settings import GroupRole, TeamRole
from deployments.teams import actors
from deployments.teams.attempts import Attempts
from deployments.teams.records import Member, Role, Team
from deployments.teams.sessions import Sessions
from deployments.teams.sign_in import Attempt, Person
from deployments.teams.sign_in_errors import SignInError
from deployments.teams.store_errors import NotFoundError, StoreUnavailableError
from monitoring import logs

if TYPE_CHECKING:
    from deployments.teams.oidc import Provider

_RANKS: tuple[Role, ...] = get_args(TeamRole)


class MemberStore(Protocol):
    """What is needed of `deployments.teams.store.Store`."""

    async def team(self, id_or_name: str) -> Team: ...
    async def memberships(self, user: str) -> list[Member]: ...
    async def set_member(self, actor: str, member: Member) -> Member: ...
    async def remove_member(self, actor: str, team_id: str, user: str) -> None: ...


@dataclass(frozen=True)
class Groups:
    """admin: people of this group are administrators; None: of none. roles: whose people are in which team."""

    admin: str | None = None
    roles: tuple[GroupRole, ...] = ()

    def role_in(self, team: str, groups: Iterable[str]) -> Role | None:
        """The highest that these groups give."""
        given = {rule.role for rule in self.roles if rule.team == team and rule.group in groups}
        return next((role for role in _RANKS if role in given), None)


class SignOn:
    """public_url: by which browsers reach this server. lifetime_s: of a session."""

    def __init__(
        self,
        provider: Provider,
        sessions: Sessions,
        open_store: Callable[[], Awaitable[MemberStore]],
        groups: Groups,
        public_url: str,
        lifetime_s: float,
    ) -> None:
        self.provider = provider
        self.sessions = sessions
        self.attempts = Attempts(sessions.seal)
        self.public_url = public_url.rstrip("/")
        self.lifetime_s = lifetime_s
        self._open_store = open_store
        self._groups = groups

    async def close(self) -> None:
        await self.provider.close()
        await self.sessions.close()

    async def finish(self, attempt: Attempt | None, answer: Mapping[str, str]) -> str:
        """The secret of a new session for who came back from the provider. Raises SignInError."""
        person = await self.provider.finish(attempt, answer)
        try:
            await self._place(person)
            admin = self._groups.admin in person.groups
            token = await self.sessions.create(person.user, person.email, person.name, self.lifetime_s, admin)
        except StoreUnavailableError as error:
            raise SignInError(
                "Nobody can sign in at the moment: the database does not answer. Try again in a minute.", str(error)
            ) from None
        logs.event("sign_on.signed_in", user=person.user, admin=admin)
        return token

    async def _place(self, person: Person) -> None:
        """Teams that the settings name have the members that the provider's groups say."""
        store = await self._open_store()
        now = {member.team_id: member for member in await store.memberships(person.user)}
        for name in dict.fromkeys(rule.team for rule in self._groups.roles):
            try:
                team = await store.team(name)
            except NotFoundError:
                logs.event("sign_on.no_such_team", f"a group is put into {name!r}", level=logging.WARNING)
                continue
            await self._place_in(store, team, person, now.pop(team.id, None))
        for member in now.values():  # elsewhere by hand: only what they are called is news
            await _set(store, person, member.team_id, member.role, member)

    async def _place_in(self, store: MemberStore, team: Team, person: Person, member: Member | None) -> None:
        role = self._groups.role_in(team.name, person.groups)
        if role is not None:
            await _set(store, person, team.id, role, member)
        elif member is not None:
            await store.remove_member(actors.PROVIDER, team.id, person.user)


async def _set(store: MemberStore, person: Person, team_id: str, role: Role, before: Member | None) -> None:
    told = (role, person.email, person.name)
    if before is None or (before.role, before.email, before.name) != told:
        member = Member(user=person.user, team_id=team_id, role=role, email=person.email, name=person.name)
        await store.set_member(actors.PROVIDER, member)
