"""How the server is: what an engine says of itself, and what an ingress makes of it for all of them."""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["starting", "ready", "silent", "draining", "stopping"]
"""Of an engine or an ingress. `silent`: it should answer, and does not. `draining`: it is about to move elsewhere."""


class Question(msgspec.Struct, frozen=True):
    """How is this engine? engine: the replica's name, by which it is routed there."""

    engine: str


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """An engine or an ingress as Ray Serve knows it. since: when it was started, in Unix seconds."""

    id: str
    state: State
    since: float


class Members(msgspec.Struct, frozen=True, kw_only=True):
    """All of them. draining: the server, or this part of it, takes no more than what it has begun."""

    engines: list[Member] = []
    ingresses: list[Member] = []
    draining: bool = False


class EngineHealth(Member, frozen=True, kw_only=True):
    """since: when it became ready, where it is. Of one that is not, `reason` says why, as far as that is known.

    running, waiting: sequences. kv_cache_usage: share of the cache that running sequences hold, 0 to 1.
    heartbeat_seconds: how long its answer took. version: of the software that it runs.
    """

    reason: str | None = None
    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    heartbeat_seconds: float | None = None
    version: str | None = None


class HealthReport(msgspec.Struct, frozen=True, kw_only=True):
    """Of one engine: whether it answered its heartbeat, and what it said. Of a server: of all its engines together.

    reason: why it is not healthy. heartbeat_seconds: age of the newest sign of life from the engine.
    engine, since, version: of the one; see `EngineHealth`. engines, ingresses, draining: of the server.
    """

    healthy: bool
    reason: str | None = None
    heartbeat_seconds: float | None = None
    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    engine: str = ""
    since: float = 0.0
    version: str | None = None
    engines: list[EngineHealth] = []
    ingresses: list[Member] = []
    draining: bool = False
