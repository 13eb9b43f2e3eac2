"""Attempts to sign in, as browsers keep them: only this server can make one, and it lasts for minutes."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable

import msgspec

from deployments.teams.exchanges import ATTEMPT_S
from deployments.teams.seal import Seal
from deployments.teams.sign_in import Attempt

_PURPOSE = "sign-in"


class _Kept(msgspec.Struct, frozen=True):
    attempt: Attempt
    issued_at: float


class Attempts:
    """now: Unix seconds."""

    def __init__(self, seal: Seal, now: Callable[[], float] = time.time) -> None:
        self._seal = seal
        self._now = now

    async def write(self, attempt: Attempt) -> str:
        """What the browser keeps: a cookie's value."""
        kept = base64.urlsafe_b64encode(msgspec.json.encode(_Kept(attempt, self._now()))).decode()
        return f"{kept}.{await self._seal.mark(_PURPOSE, kept)}"

    async def read(self, cookie: str) -> Attempt | None:
        """None for one that this server did not make, or too long ago."""
        text, _, mark = cookie.partition(".")
        if not await self._seal.fits(_PURPOSE, text, mark):
            return None
        kept = msgspec.json.decode(base64.urlsafe_b64decode(text), type=_Kept)
        return kept.attempt if self._now() - ATTEMPT_S < kept.issued_at else None
