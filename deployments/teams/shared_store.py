"""One store of a process, for all in it that needs one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from deployments.teams.store import Store


class SharedStore:
    """Opened where it is first asked for, in the event loop that asks; the database is made where there is none.

    url: of the database. clock: Unix seconds.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        self._url = url
        self._clock = clock
        self._store: Store | None = None
        self._opening = asyncio.Lock()

    @property
    def opened(self) -> Store | None:
        """None while it was never reached."""
        return self._store

    async def open(self) -> Store:
        """Raises StoreUnavailableError, and ConfigError like `Store.open`."""
        async with self._opening:
            if self._store is None:
                self._store = await Store.open(self._url, self._clock)
            return self._store

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()
