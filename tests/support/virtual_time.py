"""An event loop whose time passes only while all of its tasks sleep, and then at once.

Deadlines of half a second are as exact as those of an hour, on any machine. Tests whose tasks wait for threads,
processes or sockets need the real time.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class _Jumping(selectors.DefaultSelector):
    """Where the loop would sleep until its next timer, its time jumps there."""

    slept_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout:
            self.slept_s += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Jumping()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.slept_s
