"""A sign of life of an event loop: one that hangs gives none, though its process lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

BEAT_S = 1.0


class Heartbeat:
    """Calls `note` now and every `beat_s` seconds, on the running loop, for as long as that turns, until `stop`."""

    def __init__(self, note: Callable[[], None], beat_s: float = BEAT_S) -> None:
        self._note = note
        self._beat_s = beat_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle
        self._beat()

    def _beat(self) -> None:
        self._note()
        self._timer = self._loop.call_later(self._beat_s, self._beat)

    def stop(self) -> None:
        self._timer.cancel()
