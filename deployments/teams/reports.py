"""Reports that run: sums over usage, which may take seconds of a processor each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from deployments.errors import RateLimitedError

MOST_AT_ONCE = 2
RETRY_AFTER_S = 1.0


class Reports:
    """Room for some at once in this process, and for one of each who asks. Nobody queues."""

    def __init__(self, most: int = MOST_AT_ONCE) -> None:
        self._most = most
        self._running: set[str] = set()

    @contextlib.contextmanager
    def one(self, actor: str) -> Iterator[None]:
        """While it runs. actor: who asks. Raises RateLimitedError where there is no room."""
        if actor in self._running:
            raise RateLimitedError("One report at a time: another one of yours runs.", retry_after=RETRY_AFTER_S)
        if len(self._running) >= self._most:
            raise RateLimitedError("As many reports run as can at once.", retry_after=RETRY_AFTER_S)
        self._running.add(actor)
        try:
            yield
        finally:
            self._running.discard(actor)
