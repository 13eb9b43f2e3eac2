"""When a request came, as its front says: in a busy process it waits before anything of ours sees it.

A field of its head says it, since the front may be another process: HAProxy writes it, else the protocol that speaks to
the client. Neither lets a client's own through.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

FIELD = "x-starcoder-arrived"
"""When the request's head was there, in Unix microseconds."""

LONGEST_S = 600.0
"""Nobody waits so long for a process: what is further back was said by a clock that is wrong."""

_NAME = FIELD.encode()

HeadFields = list[tuple[bytes, bytes]]


def say(fields: HeadFields, said: bool, clock: Callable[[], float] = time.time) -> None:
    """Have the head say that it came now. said: it does already, by somebody whom we trust."""
    if said and any(name == _NAME for name, _ in fields):
        return
    fields[:] = [field for field in fields if field[0] != _NAME]
    fields.append((_NAME, b"%d" % (clock() * 1e6)))


def seconds_ago(fields: Iterable[tuple[bytes, bytes]], clock: Callable[[], float] = time.time) -> float:
    """Since the request came, as its head says; 0 where that says nothing, or what cannot be."""
    for name, value in fields:
        if name == _NAME:
            try:
                ago = clock() - int(value) / 1e6
            except (ValueError, OverflowError):
                return 0.0
            return ago if 0.0 < ago < LONGEST_S else 0.0
    return 0.0
