"""How many connections one server has, and which it can do without."""

from __future__ import annotations

from typing import Protocol
from weakref import WeakKeyDictionary

MOST_LEAVING = 256
"""Connections that were turned away and may still read their answer. More than these are cut behind it."""


class Leaves(Protocol):
    """A connection that can be cut."""

    def leave(self) -> None: ...


class Room:
    """Of one server: its connections that wait for their next request, and those that were turned away."""

    def __init__(self) -> None:
        self._idle: dict[Leaves, None] = {}  # in the order in which they became so
        self._leaving: set[Leaves] = set()

    def idle(self, connection: Leaves) -> None:
        """Its answer is out, and no byte of another request has come."""
        self._idle[connection] = None

    def busy(self, connection: Leaves) -> None:
        self._idle.pop(connection, None)

    def make(self) -> bool:
        """Cut the connection that has been idle for longest; False where none is."""
        oldest = next(iter(self._idle), None)
        if oldest is None:
            return False
        del self._idle[oldest]
        oldest.leave()
        return True

    def may_linger(self, connection: Leaves) -> bool:
        """Whether one that was turned away may stay until it has read its answer."""
        if len(self._leaving) >= MOST_LEAVING:
            return False
        self._leaving.add(connection)
        return True

    def gone(self, connection: Leaves) -> None:
        """It is closed."""
        self.busy(connection)
        self._leaving.discard(connection)


_rooms: WeakKeyDictionary[object, Room] = WeakKeyDictionary()


def room_of(server: object) -> Room:
    """The room of a server, by any object that lives as long as it and is its own."""
    return _rooms.setdefault(server, Room())
