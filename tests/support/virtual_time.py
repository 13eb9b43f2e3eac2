"""An event loop whose time passes only while all of its tasks sleep, and then at once.

Deadlines of half a second are as exact as those of an hour, on any machine. Tests whose tasks wait for threads,
processes or sockets need the real time.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

import pytest


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


def loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What a `conftest.py` imports as `pytest_asyncio_loop_factories`: tests with the mark run in virtual time."""
    virtual = item.get_closest_marker("virtual_time") is not None
    return {"virtual": VirtualTimeLoop} if virtual else {"real": asyncio.new_event_loop}
