"""Marks by which this server knows again what it gave to a browser."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable

from deployments.teams.keys import Pepper

_MARK_CHARS = 32


class Seal:
    """pepper: asked for, in a thread, for the first mark. Marks of one purpose are worth nothing for another."""

    def __init__(self, pepper: Callable[[], Pepper]) -> None:
        self._make_pepper = pepper
        self._pepper: Pepper | None = None

    async def mark(self, purpose: str, text: str) -> str:
        if self._pepper is None:
            self._pepper = await asyncio.to_thread(self._make_pepper)
        return self._pepper.digest(f"{purpose} {text}").hex()[:_MARK_CHARS]

    async def fits(self, purpose: str, text: str, mark: str) -> bool:
        return hmac.compare_digest(mark.encode(), (await self.mark(purpose, text)).encode())
