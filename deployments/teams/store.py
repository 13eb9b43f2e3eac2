"""The store of teams: everything that outlives the server, in SQLite or PostgreSQL.

Every method raises StoreUnavailableError where the database does not answer. Every change writes its row of the audit
log in the same transaction; so does nothing else, and the number of the last row is the version of the whole.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence

from msgspec import UNSET, UnsetType

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


class Store:
    """Open one a process. actor: who changes, see `Audit`."""

    @classmethod
    async def open(cls, url: str, clock: Callable[[], float] = time.time) -> Store:
        """Migrates to the newest schema; several processes may do so at once. clock: Unix seconds.

        Raises ConfigError for a URL that is none of ours, or a database of a newer version of this program.
        """
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    @staticmethod
    def exists(url: str) -> bool:
        """False only for an SQLite file that is not there: nothing was ever made. Raises ConfigError like `open`."""
        raise NotImplementedError

    # What requests are checked against

    async def snapshot(self, known_version: int | None = None) -> Snapshot | None:
        """None: it is still this version; what was spent may have grown nevertheless, see `spent`."""
        raise NotImplementedError

    async def spent(self) -> dict[str, Spent]:
        """By team that has a budget, in the present period. Cheap: some rows a team."""
        raise NotImplementedError

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
        raise NotImplementedError

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
        raise NotImplementedError

    async def archive_team(self, actor: str, team_id: str) -> Team:
        """Its keys are revoked with it. Nothing happens to one that is archived. Raises NotFoundError."""
        raise NotImplementedError

    async def accept_terms(self, actor: str, team_id: str, version: str) -> Team:
        """Raises NotFoundError."""
        raise NotImplementedError

    async def teams(self, archived: bool = False) -> list[Team]:
        """By name. archived: those too."""
        raise NotImplementedError

    async def team(self, id_or_name: str) -> Team:
        """An archived one by its id only. Raises NotFoundError."""
        raise NotImplementedError

    # Keys

    async def add_key(self, actor: str, key: Key) -> Key:
        """Raises NotFoundError for its team, InvalidChangeError for an archived team or a key that is there."""
        raise NotImplementedError

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
        raise NotImplementedError

    async def revoke_key(self, actor: str, key_id: str) -> Key:
        """Nothing happens to one that is revoked. Raises NotFoundError."""
        raise NotImplementedError

    async def keys(self, team_id: str | None = None, admin: bool | None = None, revoked: bool = False) -> list[Key]:
        """From oldest to newest. team_id: of this team only. admin: those that are administrators', or all others.
        revoked: those too.
        """
        raise NotImplementedError

    async def key(self, key_id: str) -> Key:
        """Raises NotFoundError."""
        raise NotImplementedError

    async def has_admin_key(self) -> bool:
        """Whether an administrator can get in by a key: neither revoked nor expired."""
        raise NotImplementedError

    # People

    async def set_member(self, actor: str, member: Member) -> Member:
        """A new one, or another role, email or name of one. Raises NotFoundError for its team."""
        raise NotImplementedError

    async def remove_member(self, actor: str, team_id: str, user: str) -> None:
        """Raises NotFoundError."""
        raise NotImplementedError

    async def members(self, team_id: str | None = None) -> list[Member]:
        """Of one team or all; in the order in which they came."""
        raise NotImplementedError

    async def memberships(self, user: str) -> list[Member]:
        """In teams that are not archived."""
        raise NotImplementedError

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
        raise NotImplementedError

    async def session(self, digest: bytes) -> Session | None:
        """None for one that never was, was ended, or has expired."""
        raise NotImplementedError

    async def end_session(self, digest: bytes) -> None:
        raise NotImplementedError

    async def end_sessions(self, user: str) -> int:
        """How many there were."""
        raise NotImplementedError

    # Money

    async def set_price(self, actor: str, price: Price) -> Price:
        """Raises InvalidChangeError where the model has a price that is valid from then on or later."""
        raise NotImplementedError

    async def prices(self) -> list[Price]:
        """By model, then time."""
        raise NotImplementedError

    async def book(self, entries: Sequence[LedgerEntry]) -> int:
        """Puts on the ledger, and into usage, what is not there yet by its id: all or nothing. How many were new.

        Teams and keys need not be known: what was computed is on the ledger, whatever became of those.
        """
        raise NotImplementedError

    async def accepted(self, events: Sequence[Accepted]) -> None:
        """Into usage; counted each time they are told."""
        raise NotImplementedError

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
        hour: they are counted for whole hours only.
        """
        raise NotImplementedError

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
        raise NotImplementedError

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
        raise NotImplementedError

    async def verify_audit(self) -> int:
        """How many rows there are, all of them as they were written. Raises AuditBrokenError."""
        raise NotImplementedError
