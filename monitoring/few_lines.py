"""Lines of the log that strangers can cause at will, and must not fill it with."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from monitoring import logs

MOST_LINES = 20
PERIOD_S = 60.0


class FewLines:
    """An event of which MOST_LINES are written in PERIOD_S. The next line says how many were left out before it."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._began = -PERIOD_S
        self._written = 0
        self._left_out = 0

    def write(self, *, level: int = logging.INFO, **fields: Any) -> bool:
        """Write a line with these fields, or leave it out and return False."""
        now = self._clock()
        if now - self._began >= PERIOD_S:
            self._began, self._written = now, 0
        if self._written >= MOST_LINES:
            self._left_out += 1
            return False
        self._written += 1
        self._write(level=level, **fields)
        return True

    def tell(self) -> None:
        """Say how many were left out, if any were and no line has said it yet."""
        if self._left_out:
            self._write(level=logging.INFO)

    def _write(self, **fields: Any) -> None:
        left_out, self._left_out = self._left_out or None, 0
        logs.event(self._name, left_out=left_out, **fields)
