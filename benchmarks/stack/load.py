"""What a client is told to do, and what it found. It crosses a process as JSON."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["stream", "whole", "get"]


class Load(msgspec.Struct):
    """`streams` clients, each of which asks again as soon as it has been answered.

    first: the requests, one a client, with which they begin: of many lengths, so that they are out of step afterwards.
    requests: those after, in turn. ends: characters of the answer's text after each of its tokens; empty where nobody
    knows it, and then an answer must end where as many tokens have come as were asked for.
    """

    port: int
    kind: Kind
    streams: int
    warmup: float
    seconds: float
    first: list[bytes]
    requests: list[bytes]
    ends: list[int] = []


class Found(msgspec.Struct):
    """What came in the measured time, all times in seconds.

    requests: that ended. tokens, updates: tokens that came, and how many times text came; events that came at once
    are one update. ttft, e2el: of requests that were sent in it. gaps: between neighbouring updates of a request.
    failed: why requests failed.
    """

    seconds: float = 0.0
    requests: int = 0
    tokens: int = 0
    updates: int = 0
    ttft: list[float] = []
    e2el: list[float] = []
    gaps: list[float] = []
    failed: list[str] = []

    def add(self, other: Found) -> None:
        """Another run of the same."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
