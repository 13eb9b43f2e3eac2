"""Codes that are exchanged at the identity provider: so many at once, and one of each attempt to sign in.

Anybody can send codes here. The provider is to see no more of them than people who sign in send.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from deployments.teams.sign_in_errors import LaterError, SignInError

MOST_AT_ONCE = 8
ATTEMPT_S = 600
"""So long somebody may take at the identity provider."""

_MOST_KNOWN = 10_000


class Exchanges:
    """clock: seconds that only grow."""

    def __init__(self, clock: Callable[[], float], most: int = MOST_AT_ONCE) -> None:
        self._clock = clock
        self._most = most
        self._running = 0
        self._used: dict[str, float] = {}

    @contextlib.contextmanager
    def one(self, state: str) -> Iterator[None]:
        """While it runs. state: of the attempt. Raises SignInError, and LaterError where too many run."""
        if state in self._used:
            raise SignInError("This sign-in has been used already.", "state was used")
        if self._running >= self._most:
            raise LaterError("Too many people sign in at this moment.", "too many at once")
        self._forget()
        self._used[state] = self._clock()
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def _forget(self) -> None:
        """Attempts that are over, and the oldest of too many. They stand in the order of their times."""
        since = self._clock() - ATTEMPT_S
        while self._used:
            state, at = next(iter(self._used.items()))
            if at > since and len(self._used) < _MOST_KNOWN:
                return
            del self._used[state]
