"""Every engine is asked how it is, and what they say is put together: a server is well where one of them is ready."""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from deployments.errors import ServeError
from deployments.health import EngineHealth, HealthReport, Member, Members

PATIENCE_S = 1.0
"""So long all are waited for, and then only for the first that is ready: one that hangs says nothing of the others."""

Ask = Callable[[str], Awaitable[HealthReport]]
"""Of an engine, by its name. Raises ServeError."""


async def survey(members: Members, ask: Ask, timeout_s: float) -> HealthReport:
    """How the server is, after `timeout_s` at most."""
    asked = {member.id: _begun(ask, member.id) for member in members.engines if member.state == "ready"}
    try:
        await _answered(list(asked.values()), timeout_s)
    finally:
        for answer in asked.values():
            answer.cancel()
        await asyncio.gather(*asked.values(), return_exceptions=True)
    return _together(members, [_of(member, asked.get(member.id)) for member in members.engines])


def _begun(ask: Ask, engine: str) -> asyncio.Task[HealthReport]:
    """Serve takes calls in the context of one request for one call, and would look for a replica of it for ever."""

    async def answer() -> HealthReport:
        return await ask(engine)

    return asyncio.get_running_loop().create_task(answer(), context=contextvars.Context())


async def _answered(answers: Sequence[asyncio.Future[HealthReport]], timeout_s: float) -> None:
    """Return when all have answered, when one is well and the others had their time, or after `timeout_s`."""
    if not answers:
        return
    deadline = asyncio.get_running_loop().time() + timeout_s
    _, pending = await asyncio.wait(answers, timeout=min(PATIENCE_S, timeout_s))
    while pending and not any(map(_is_well, answers)):
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            return
        _, pending = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)


def _is_well(answer: asyncio.Future[HealthReport]) -> bool:
    return answer.done() and not answer.cancelled() and answer.exception() is None and answer.result().healthy


def _of(member: Member, answer: asyncio.Future[HealthReport] | None) -> EngineHealth:
    if answer is None:
        return EngineHealth(id=member.id, state=member.state, since=member.since)
    if answer.cancelled():
        return _silent(member, "It has not answered yet.")
    if (error := answer.exception()) is not None:
        if not isinstance(error, ServeError):
            raise error
        return _silent(member, error.message)
    report = answer.result()
    if report.engine != member.id:
        return _silent(member, "It has gone.")
    if not report.healthy:
        return _silent(member, report.reason)
    return EngineHealth(
        id=member.id,
        state="ready",
        since=report.since,
        running=report.running,
        waiting=report.waiting,
        kv_cache_usage=report.kv_cache_usage,
        heartbeat_seconds=report.heartbeat_seconds,
        version=report.version,
    )


def _silent(member: Member, reason: str | None) -> EngineHealth:
    return EngineHealth(id=member.id, state="silent", since=member.since, reason=reason)


def _together(members: Members, engines: list[EngineHealth]) -> HealthReport:
    ready = [engine for engine in engines if engine.state == "ready"]
    beats = [engine.heartbeat_seconds for engine in ready if engine.heartbeat_seconds is not None]
    return HealthReport(
        healthy=bool(ready) and not members.draining,
        reason="The server drains." if members.draining else None if ready else _why(engines),
        heartbeat_seconds=max(beats, default=None),
        running=sum(engine.running for engine in ready),
        waiting=sum(engine.waiting for engine in ready),
        kv_cache_usage=max((engine.kv_cache_usage for engine in ready), default=0.0),
        engines=engines,
        ingresses=members.ingresses,
        draining=members.draining,
    )


def _why(engines: Sequence[EngineHealth]) -> str:
    counts = Counter(engine.state for engine in engines)
    others = ", ".join(f"{count} {'is' if count == 1 else 'are'} {state}" for state, count in counts.items())
    return f"No engine is ready: {others}." if others else "No engine is there."
