"""Who is signed in: the secret in a person's cookie, and what is remembered of it for a moment.

The secret is 256 random bits; the store has its SHA-256. Beside it stands a mark that only this server can make, so
that what strangers make up is told without asking the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from deployments.errors import AuthUnavailableError
from deployments.teams.keys import Pepper
from deployments.teams.records import Member, Role, Session
from deployments.teams.seal import Seal
from deployments.teams.store_errors import StoreUnavailableError

_PURPOSE = "session"
_MAX_KNOWN = 20_000
RETRY_S = 2.0
"""Between looks for a database that is away."""


class SessionStore(Protocol):
    """What is needed of `deployments.teams.store.Store`."""

    async def create_session(
        self,
        digest: bytes,
        user: str,
        email: str | None,
        name: str | None,
        expires_at: float,
        admin: bool = False,
    ) -> Session: ...
    async def session(self, digest: bytes) -> Session | None: ...
    async def end_session(self, digest: bytes) -> None: ...
    async def memberships(self, user: str) -> list[Member]: ...


OpenStore = Callable[[], Awaitable[SessionStore]]
"""Raises StoreUnavailableError where the database does not answer."""


@dataclass(frozen=True)
class SignedIn:
    """roles: by the id of the team."""

    session: Session
    roles: dict[str, Role]


@dataclass
class _Known:
    """signed_in: None for a session that was ended."""

    signed_in: SignedIn | None
    read_at: float


class Sessions:
    """refresh_s: so old what is known may be while the database answers, max_staleness_s: while it does not."""

    def __init__(
        self,
        open_store: OpenStore,
        pepper: Callable[[], Pepper],
        *,
        refresh_s: float = 2.0,
        max_staleness_s: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._open_store = open_store
        self.seal = Seal(pepper)
        self._refresh_s = refresh_s
        self._max_staleness_s = max_staleness_s
        self._clock = clock
        self._now = now
        self._known: dict[bytes, _Known] = {}
        self._reading: dict[bytes, asyncio.Task[_Known]] = {}
        self._failed_at = -float("inf")

    async def create(
        self, user: str, email: str | None, name: str | None, lifetime_s: float, admin: bool = False
    ) -> str:
        """The secret of a new session. Raises StoreUnavailableError."""
        secret = secrets.token_urlsafe(32)
        token = f"{secret}.{await self.seal.mark(_PURPOSE, secret)}"
        store = await self._open_store()
        await store.create_session(_digest(secret), user, email, name, self._now() + lifetime_s, admin)
        return token

    async def find(self, token: str) -> SignedIn | None:
        """None: nobody is signed in with that. Raises AuthUnavailableError where nobody can tell."""
        digest = await self._genuine(token)
        if digest is None:
            return None
        known = self._known.get(digest)
        if known is None or not self._is_fresh(known):
            known = await self._read_again(digest, known)
        found = known.signed_in
        return found if found is not None and found.session.expires_at > self._now() else None

    async def end(self, token: str) -> None:
        """Raises AuthUnavailableError: then it goes on."""
        digest = await self._genuine(token)
        if digest is None:
            return
        try:
            await (await self._open_store()).end_session(digest)
        except StoreUnavailableError:
            raise _unavailable() from None
        self._known[digest] = _Known(None, self._clock())

    async def close(self) -> None:
        for task in list(self._reading.values()):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _is_fresh(self, known: _Known) -> bool:
        now = self._clock()
        age = now - known.read_at
        return age < self._refresh_s or (now - self._failed_at < RETRY_S and age < self._max_staleness_s)

    async def _read_again(self, digest: bytes, known: _Known | None) -> _Known:
        """However many ask at once, the database is asked once."""
        if self._clock() - self._failed_at < RETRY_S:
            raise _unavailable()
        task = self._reading.get(digest)
        if task is None:
            task = self._reading[digest] = asyncio.create_task(self._read(digest))
            task.add_done_callback(lambda done: self._has_read(digest, done))
        try:
            return await asyncio.shield(task)
        except StoreUnavailableError:
            self._failed_at = self._clock()
            if known is not None and self._is_fresh(known):
                return known
            raise _unavailable() from None

    async def _read(self, digest: bytes) -> _Known:
        asked_at = self._clock()
        store = await self._open_store()
        session = await store.session(digest)
        signed_in = None
        if session is not None:
            roles = {member.team_id: member.role for member in await store.memberships(session.user)}
            signed_in = SignedIn(session, roles)
        if len(self._known) >= _MAX_KNOWN:
            self._forget_oldest()
        newer = self._known.get(digest)
        if newer is not None and newer.read_at >= asked_at:
            return newer  # it was ended meanwhile
        self._known[digest] = _Known(signed_in, asked_at)
        return self._known[digest]

    def _has_read(self, digest: bytes, done: asyncio.Task[_Known]) -> None:
        self._reading.pop(digest, None)
        if not done.cancelled():
            done.exception()  # whoever waited for it has heard of it

    def _forget_oldest(self) -> None:
        by_age = sorted(self._known, key=lambda digest: self._known[digest].read_at)
        for digest in by_age[: _MAX_KNOWN // 4]:
            del self._known[digest]

    async def _genuine(self, token: str) -> bytes | None:
        """The digest of a secret that this server made; None for anything else."""
        secret, _, mark = token.partition(".")
        return _digest(secret) if await self.seal.fits(_PURPOSE, secret, mark) else None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _unavailable() -> AuthUnavailableError:
    return AuthUnavailableError("Sessions cannot be checked at the moment.", retry_after=RETRY_S)
