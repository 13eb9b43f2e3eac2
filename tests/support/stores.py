"""Stores of teams for tests, and what to put into them."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.teams.database.connections import engine_for
from deployments.teams.database.url import parse
from deployments.teams.keys import Pepper, last_four, new_key
from deployments.teams.records import Key, LedgerEntry
from deployments.teams.store import Store

PEPPER = Pepper(b"a pepper of the tests, 32 bytes.")

NOON = 1_800_014_400.0
"""Friday, 2027-01-15, 12:00 UTC."""

_numbers = itertools.count()


class Clock:
    """Shows what it was set to."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def a_key(team_id: str | None, secret: str | None = None, **fields: Any) -> Key:
    """secret: whose digest it has; else that of a new one."""
    secret = secret or new_key()
    known = {
        "id": f"key_{uuid.uuid4()}",
        "name": "editor",
        "digest": PEPPER.digest(secret),
        "pepper_id": PEPPER.id,
        "last_four": last_four(secret),
        "scopes": ("admin",) if team_id is None else ("generate", "usage"),
        "created_at": NOON + next(_numbers),
        "created_by": "local",
    }
    return Key(team_id=team_id, **{**known, **fields})


def an_entry(**fields: Any) -> LedgerEntry:
    known = {
        "id": str(uuid.uuid4()),
        "team_id": "team_a",
        "key_id": "key_a",
        "model": "starcoder",
        "dialect": "openai",
        "kind": "completed",
        "started_at": NOON,
        "ended_at": NOON + 2,
        "prompt_tokens": 100,
        "cached_tokens": 60,
        "completion_tokens": 20,
        "cost": 31_500_000,
    }
    return LedgerEntry(**{**known, **fields})


def begin(url: str, name: str) -> None:
    """What a process does that opens a store, and makes a team of that name."""

    async def make() -> None:
        store = await Store.open(url)
        await store.create_team("local", name)
        await store.close()

    asyncio.run(make())


@asynccontextmanager
async def past_the_store(url: str) -> AsyncIterator[AsyncConnection]:
    """A transaction of somebody who knows the database's password, rolled back at the end."""
    engine = engine_for(parse(url), migrating=True)
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def drop_triggers(connection: AsyncConnection) -> None:
    """Whoever owns the tables can do so."""
    if connection.dialect.name == "sqlite":
        names = await connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'"))
        statements = [f"DROP TRIGGER {name}" for (name,) in names.all()]
    else:
        statements = ["DROP FUNCTION refuse_change CASCADE"]
    for statement in statements:
        await connection.execute(text(statement))
