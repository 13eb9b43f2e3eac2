"""The store of teams: everything that outlives the server, in SQLite or PostgreSQL.

Every method raises StoreUnavailableError where the database does not answer. Every change writes its row of the audit
log in the same transaction; so does nothing else, and the number of the last row is the version of the whole.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeVar

from msgspec import UNSET, UnsetType
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.teams.database import changes, keys, ledger, people, prices, schema, teams, usage
from deployments.teams.database.changes import Change, change
from deployments.teams.database.connections import Database
from deployments.teams.database.names import names
from deployments.teams.database.upgrade import upgrade
from deployments.teams.database.url import parse
from deployments.teams.records import (
    NO_LIMITS,
    Accepted,
    Audit,
    Bucket,
    Budget,
    Grouping,
    Key,
    LedgerEntry,
    Limits,
    Member,
    Price,
    ServiceClass,
    Session,
    Snapshot,
    Spent,
    Team,
    UsageRow,
)

T = TypeVar("T")


REPORT_S = 20.0
"""So long a sum of usage may take."""


class Store:
    """Open one a process. actor: who changes, see `Audit`.

    database: what requests are checked against, what they cost, and every change. questions: connections for what
    people ask, so that nothing of the above waits for that.
    """

    def __init__(self, database: Database, questions: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._questions = questions
        self._clock = clock

    @classmethod
    async def open(cls, url: str, clock: Callable[[], float] = time.time) -> Store:
        """Migrates to the newest schema; several processes may do so at once. clock: Unix seconds.

        Raises ConfigError for a URL that is none of ours, or a database of a newer version of this program.
        """
        parsed = parse(url)
        await upgrade(parsed)
        return cls(Database(parsed), Database(parsed), clock)

    async def close(self) -> None:
        await self._questions.close()
        await self._database.close()

    # What requests are checked against

    async def snapshot(self, known_version: int | None = None) -> Snapshot | None:
        """None: it is still this version; what was spent may have grown nevertheless, see `spent`."""
        return await self._database.read(lambda connection: _snapshot(connection, known_version))

    async def spent(self) -> dict[str, Spent]:
        """By team that has a budget, in the present period. Cheap: some rows a team."""
        return await self._database.read(lambda connection: usage.spent(connection, self._clock()))

    # Teams

    async def create_team(
        self,
        actor: str,
        name: str,
        *,
        weight: float = 1.0,
        service_class: ServiceClass = "standard",
        limits: Limits = NO_LIMITS,
        budget: Budget | None = None,
    ) -> Team:
        """name: 1 to 64 of `a-z0-9-_.`; not `default` or `other`, which metrics have for something else.

        Raises NameTakenError and InvalidChangeError.
        """
        return await self._change(
            actor, lambda change: teams.create(change, name, weight, service_class, limits, budget)
        )

    async def set_team(
        self,
        actor: str,
        team_id: str,
        *,
        name: str | UnsetType = UNSET,
        weight: float | UnsetType = UNSET,
        service_class: ServiceClass | UnsetType = UNSET,
        limits: Limits | UnsetType = UNSET,
        budget: Budget | UnsetType | None = UNSET,
    ) -> Team:
        """Raises NotFoundError, NameTakenError and InvalidChangeError (an archived team)."""
        changed = {"name": name, "weight": weight, "service_class": service_class, "limits": limits, "budget": budget}
        return await self._change(actor, lambda change: teams.alter(change, team_id, _given(changed)))

    async def archive_team(self, actor: str, team_id: str) -> Team:
        """Its keys are revoked with it. Nothing happens to one that is archived. Raises NotFoundError."""
        return await self._change(actor, lambda change: teams.archive(change, team_id))

    async def accept_terms(self, actor: str, team_id: str, version: str) -> Team:
        """Raises NotFoundError."""
        return await self._change(actor, lambda change: teams.accept_terms(change, team_id, version))

    async def teams(self, archived: bool = False) -> list[Team]:
        """By name. archived: those too."""
        return await self._questions.read(lambda connection: teams.read(connection, archived))

    async def team(self, id_or_name: str) -> Team:
        """An archived one by its id only. Raises NotFoundError."""
        return await self._questions.read(lambda connection: teams.find(connection, id_or_name))

    # Keys

    async def add_key(self, actor: str, key: Key) -> Key:
        """A person who is not in its team makes it as an administrator: then `created_by` says so.

        Raises NotFoundError for its team; InvalidChangeError for an archived team, a key that is there, or as many as
        there may be; NotAllowedError for a person who makes none there.
        """
        return await self._change(actor, lambda change: keys.add(change, key))

    async def replace_key(self, actor: str, old_id: str, key: Key, ends_at: float | None = None) -> Key:
        """Adds a key in the place of another, which is revoked, or ends at `ends_at`. Raises what `add_key` does."""
        return await self._change(actor, lambda change: keys.replace(change, old_id, key, ends_at))

    async def set_key(
        self,
        actor: str,
        key_id: str,
        *,
        name: str | UnsetType = UNSET,
        limits: Limits | UnsetType = UNSET,
        expires_at: float | UnsetType | None = UNSET,
    ) -> Key:
        """Raises NotFoundError and InvalidChangeError (a revoked key)."""
        changed = {"name": name, "limits": limits, "expires_at": expires_at}
        return await self._change(actor, lambda change: keys.alter(change, key_id, _given(changed)))

    async def revoke_key(self, actor: str, key_id: str) -> Key:
        """Nothing happens to one that is revoked. Raises NotFoundError."""
        return await self._change(actor, lambda change: keys.revoke(change, key_id))

    async def keys(self, team_id: str | None = None, admin: bool | None = None, revoked: bool = False) -> list[Key]:
        """From oldest to newest. team_id: of this team only. admin: those that are administrators', or all others.
        revoked: those too.
        """
        return await self._questions.read(lambda connection: keys.read(connection, team_id, admin, revoked))

    async def key(self, key_id: str) -> Key:
        """Raises NotFoundError."""
        return await self._questions.read(lambda connection: keys.of_id(connection, key_id))

    async def pepper_ids(self) -> set[str]:
        """Of the peppers that keys were hashed with which are not revoked."""
        return await self._database.read(keys.pepper_ids)

    # People

    async def set_member(self, actor: str, member: Member) -> Member:
        """A new one, or another role, email or name of one.

        Raises NotFoundError for its team, NotAllowedError for a person who is no owner of it, nor an administrator.
        """
        return await self._change(actor, lambda change: people.set_member(change, member))

    async def remove_member(self, actor: str, team_id: str, user: str) -> None:
        """With the keys of the team that they made. Raises NotFoundError."""
        return await self._change(actor, lambda change: people.remove_member(change, team_id, user))

    async def remove_person(self, actor: str, user: str) -> bool:
        """Somebody leaves: their sessions end, their keys are revoked, no team has them.

        False: nobody of that name was in a team or signed in.
        """
        return await self._change(actor, lambda change: people.remove_person(change, user))

    async def members(self, team_id: str | None = None) -> list[Member]:
        """Of one team or all; in the order in which they came."""
        return await self._questions.read(lambda connection: people.read_members(connection, team_id))

    async def memberships(self, user: str) -> list[Member]:
        """In teams that are not archived."""
        return await self._database.read(lambda connection: people.memberships(connection, user))

    async def create_session(
        self,
        digest: bytes,
        user: str,
        email: str | None,
        name: str | None,
        expires_at: float,
        admin: bool = False,
    ) -> Session:
        """digest: of the secret in the person's cookie. No change: the audit log tells what people do, not that they
        are here.
        """
        session = Session(
            user=user, email=email, name=name, created_at=self._clock(), expires_at=expires_at, admin=admin
        )
        return await self._database.write(lambda connection: people.create_session(connection, digest, session))

    async def session(self, digest: bytes) -> Session | None:
        """None for one that never was, was ended, or has expired."""
        return await self._database.read(lambda connection: people.find_session(connection, digest, self._clock()))

    async def end_session(self, digest: bytes) -> None:
        return await self._database.write(lambda connection: people.end_session(connection, digest))

    async def end_sessions(self, user: str) -> int:
        """How many there were."""
        return await self._database.write(lambda connection: people.end_sessions(connection, user))

    # Money

    async def set_price(self, actor: str, price: Price) -> Price:
        """Raises InvalidChangeError where the model has a price that is valid from then on or later."""
        return await self._change(actor, lambda change: prices.add(change, price))

    async def prices(self) -> list[Price]:
        """By model, then time."""
        return await self._questions.read(lambda connection: prices.read(connection))

    async def book(self, entries: Sequence[LedgerEntry]) -> int:
        """Puts on the ledger, and into usage, what is not there yet by its id: all or nothing. How many were new.

        Teams and keys need not be known: what was computed is on the ledger, whatever became of those.
        """
        return await self._database.write(lambda connection: ledger.book(connection, entries))

    async def accepted(self, events: Sequence[Accepted]) -> None:
        """Into usage; counted each time they are told."""
        return await self._database.write(lambda connection: usage.add_accepted(connection, events))

    async def usage(
        self,
        start: float,
        end: float,
        *,
        bucket: Bucket,
        by: Sequence[Grouping] = (),
        team_ids: Sequence[str] | None = None,
        key_ids: Sequence[str] | None = None,
        models: Sequence[str] | None = None,
    ) -> list[UsageRow]:
        """Sums over what began in `start <= time < end`, by time and then by `by`; none where nothing was used.

        The first and the last bucket end where the time does that was asked for. Accepted completions are kept by the
        hour: they are counted for whole hours only. Raises TooLongError.
        """
        chosen = {"team_id": team_ids, "key_id": key_ids, "model": models}
        return await self._questions.report(
            lambda connection: usage.read(connection, start, end, bucket, by, chosen), REPORT_S
        )

    async def team_names(self, ids: Collection[str]) -> dict[str, str]:
        """By id, of archived ones too."""
        return await self._questions.read(lambda connection: names(connection, schema.teams, ids))

    async def key_names(self, ids: Collection[str]) -> dict[str, str]:
        """By id, of revoked ones too."""
        return await self._questions.read(lambda connection: names(connection, schema.keys, ids))

    def entries(
        self,
        start: float,
        end: float,
        *,
        team_ids: Sequence[str] | None = None,
        key_ids: Sequence[str] | None = None,
        models: Sequence[str] | None = None,
    ) -> AsyncIterator[LedgerEntry]:
        """Those that began in `start <= time < end`, by time; read in pieces."""
        chosen = {"team_id": team_ids, "key_id": key_ids, "model": models}
        return ledger.read(self._questions, start, end, chosen)

    # The audit log

    async def audit(
        self,
        after: int = 0,
        limit: int = 100,
        *,
        before: int | None = None,
        newest_first: bool = False,
        actor: str | None = None,
        action: str | None = None,
        subject: str | None = None,
    ) -> list[Audit]:
        """Rows with `after < number < before`."""
        chosen = {"actor": actor, "action": action, "subject": subject}
        return await self._questions.read(
            lambda connection: changes.read(connection, after, limit, before, newest_first, chosen)
        )

    async def verify_audit(self) -> int:
        """How many rows there are, all of them as they were written. Raises AuditBrokenError."""
        return await self._questions.read(lambda connection: changes.verify(connection))

    async def _change(self, actor: str, work: Callable[[Change], Awaitable[T]]) -> T:
        return await change(self._database, actor, self._clock(), work)


async def _snapshot(connection: AsyncConnection, known_version: int | None) -> Snapshot | None:
    version = await changes.version(connection)
    if version == known_version:
        return None
    return Snapshot(
        version=version,
        teams={team.id: team for team in await teams.read(connection, archived=False)},
        keys={key.digest: key for key in await keys.read_good(connection)},
        prices=tuple(await prices.read(connection)),
        closed=await keys.is_any(connection),
    )


def _given(changed: Mapping[str, T | UnsetType]) -> dict[str, T]:
    return {name: value for name, value in changed.items() if value is not UNSET}
