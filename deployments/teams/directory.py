"""Who holds a key: all keys and teams in memory, as of a moment ago. No request waits for the database."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from deployments.errors import AuthUnavailableError, UnauthorizedError
from deployments.teams.keys import WRONG_PEPPER, Pepper, is_well_formed, last_four
from deployments.teams.principal import Principal
from deployments.teams.records import Key, Price, Snapshot, Spent, Team
from model.config import ConfigError
from monitoring import logs

MISSES_S = 0.25
"""A key that is not known may have been made just now: the database is asked, but no more often than this. Whoever sent
it waits for so long, together with all others who did."""

RETRY_AFTER_S = 2.0

LATE_S = 5.0
"""So much later than planned a reading may end with a database that is there."""


class Source(Protocol):
    """What the directory needs of `deployments.teams.store.Store`."""

    async def snapshot(self, known_version: int | None = None) -> Snapshot | None: ...
    async def spent(self) -> dict[str, Spent]: ...


Open = Callable[[], Awaitable[Source | None]]
"""Opens the database; None while there is none, so that no key was ever made. Raises where it cannot be reached."""

_NOBODY = Snapshot(version=0, teams={}, keys={})


class Directory:
    """The newest snapshot, renewed by `run`.

    pepper: of the stored digests; asked for when the first key is there. required: nobody gets in without a key, even
    while there is none. refresh_s: the age at which the snapshot is renewed. max_staleness_s: so much later than that
    it is worth nothing. on_closed: awaited at each reading of a database once the server is closed.
    """

    def __init__(
        self,
        open_source: Open,
        pepper: Callable[[], Pepper],
        *,
        required: bool = False,
        refresh_s: float = 2.0,
        max_staleness_s: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        on_closed: Callable[[], Awaitable[None]] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._open_source = open_source
        self._make_pepper = pepper
        self._required = required
        self._refresh_s = refresh_s
        self._max_staleness_s = max_staleness_s
        self._clock = clock
        self._now = now
        self._on_closed = on_closed
        self._sleep = sleep
        self._source: Source | None = None
        self._pepper: Pepper | None = None
        self._pepper_ids: set[str] = set()
        self._snapshot: Snapshot | None = None
        self._spent: dict[str, Spent] = {}
        self._principals: dict[bytes, Principal] = {}
        self._read_at = -float("inf")
        self._tried_at = -float("inf")
        self._reading: asyncio.Task[None] | None = None
        self._failed = False

    @property
    def closed(self) -> bool:
        """Whether a key is needed. True as well while nobody knows whether there are any."""
        return self._required or self._snapshot is None or self._snapshot.closed

    @property
    def store(self) -> Source | None:
        """The open database, if it has been reached."""
        return self._source

    @property
    def age_s(self) -> float:
        """Of what is known, in seconds; infinite where nothing is."""
        return self._clock() - self._read_at

    def team(self, team_id: str) -> Team | None:
        return None if self._snapshot is None else self._snapshot.teams.get(team_id)

    def teams(self) -> Collection[Team]:
        return () if self._snapshot is None else self._snapshot.teams.values()

    def spent(self, team_id: str) -> Spent | None:
        """What the ledger says of a team with a budget, a moment ago."""
        return self._spent.get(team_id)

    def price(self, model: str) -> Price | None:
        """The newest price of a model that is in force; None: it has none of its own."""
        now = self._now()
        prices = () if self._snapshot is None else self._snapshot.prices
        valid = [price for price in prices if price.model == model and price.valid_from <= now]
        return max(valid, key=lambda price: price.valid_from, default=None)

    async def run(self) -> None:
        """Renew the snapshot until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._refresh_s)

    async def refresh(self) -> None:
        """Read what has changed. Never raises: where the database is away, what is known stays."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        await asyncio.shield(self._reading)

    async def principal(self, key: str) -> Principal:
        """Whose key this is. Raises UnauthorizedError, and AuthUnavailableError where nobody can tell."""
        if not is_well_formed(key):
            raise UnauthorizedError(_refusal(key, "is none of this server's keys"))
        found = self._find(key)
        if found is None:
            await self._read_since(self._clock())
            found = self._find(key)
        if self.age_s > self._max_staleness_s + self._refresh_s + LATE_S or (found is None and self._failed):
            raise AuthUnavailableError("Keys cannot be checked at the moment.", retry_after=RETRY_AFTER_S)
        if found is None:
            raise UnauthorizedError(_refusal(key, "is not known, or was revoked"))
        expires_at = found.key.expires_at if found.key is not None else None
        if expires_at is not None and expires_at <= self._now():
            raise UnauthorizedError(_refusal(key, "has expired"))
        return found

    async def _read_since(self, asked_at: float) -> None:
        """Return when a reading has ended that began later."""
        while self._tried_at <= asked_at:
            if (wait_s := self._tried_at + MISSES_S - self._clock()) > 0:
                await self._sleep(wait_s)
            else:
                await self.refresh()
        if self._reading is not None:
            await asyncio.shield(self._reading)

    def _find(self, key: str) -> Principal | None:
        if self._snapshot is None or self._pepper is None:
            return None
        digest = self._pepper.digest(key)
        if (known := self._principals.get(digest)) is not None:
            return known
        stored = self._snapshot.keys.get(digest)
        if stored is None or (principal := self._principal(stored)) is None:
            return None
        self._principals[digest] = principal
        return principal

    def _principal(self, key: Key) -> Principal | None:
        """None where its team was archived."""
        assert self._snapshot is not None
        team = None if key.team_id is None else self._snapshot.teams.get(key.team_id)
        if key.team_id is not None and (team is None or team.archived_at is not None):
            return None
        return Principal(team=team, key=key, scopes=key.scopes)

    async def _read(self) -> None:
        self._tried_at = self._clock()
        try:
            if self._source is None:
                self._source = await self._open_source()
            if self._source is None:
                newer: Snapshot | None = _NOBODY if self._snapshot is None else None
                spent: dict[str, Spent] = {}
            else:
                newer = await self._source.snapshot(None if self._snapshot is None else self._snapshot.version)
                spent = await self._source.spent()
            if newer is not None:
                self._snapshot, self._principals = newer, {}
                self._pepper_ids = {key.pepper_id for key in newer.keys.values()}
            self._spent = spent
            if self.closed and self._source is not None:
                await self._close(self._snapshot is not None and self._snapshot.closed)
            self._read_at = self._clock()
        except Exception as error:
            self._report(error)
            return
        if self._failed:
            self._failed = False
            logs.event("teams.database_back", "keys are checked again")

    async def _close(self, has_keys: bool) -> None:
        """What those need who get in. The door is closed already: what fails here opens it to nobody."""
        if self._on_closed is not None:
            await self._on_closed()
        if has_keys and self._pepper is None:
            self._pepper = await asyncio.to_thread(self._make_pepper)
        if self._pepper is not None and self._pepper_ids and self._pepper.id not in self._pepper_ids:
            self._pepper = None  # another may be there next time
            raise ConfigError(WRONG_PEPPER)

    def _report(self, error: Exception) -> None:
        """Once, until it is back."""
        if not self._failed:
            self._failed = True
            logs.event("teams.database_away", str(error), level=logging.ERROR, error_type=type(error).__name__)

    async def close(self) -> None:
        """Forget what is being read."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading


def _refusal(key: str, why: str) -> str:
    """Names at most the last four characters of what was sent, and only of what could be a key."""
    named = f"The API key that ends in {last_four(key)!r}" if is_well_formed(key) else "The API key that was sent"
    return f"{named} {why}."
