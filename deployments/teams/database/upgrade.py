"""From whatever schema a database has to the newest: all or nothing, and once, however many processes start."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL

from deployments.teams.database.connections import engine_for, failures, prepare
from deployments.teams.database.url import sqlite_file
from model.config import ConfigError

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x53746172_54656D73  # of PostgreSQL's advisory locks: any number that nobody else takes
_LOCK_S = 20
"""Of a process that migrates and hangs, others say so rather than hang as well; they ask again."""

_alembic = threading.Lock()
"""It keeps what it works on in its modules."""


async def upgrade(url: URL, revision: str = "head") -> None:
    """Raises ConfigError for the database of a newer version of this program, and StoreUnavailableError."""
    await asyncio.to_thread(_upgrade_alone, url, revision)


def _upgrade_alone(url: URL, revision: str) -> None:
    with _alembic:
        asyncio.run(_upgrade(url, revision))


async def _upgrade(url: URL, revision: str) -> None:
    with failures():
        if file := sqlite_file(url):
            prepare(file)
        engine = engine_for(url, migrating=True)
        try:
            async with engine.execution_options(sqlite_begin="EXCLUSIVE").begin() as connection:
                if not file:
                    await connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_S}s'"))
                    await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
                await connection.run_sync(_run, revision)
        finally:
            await engine.dispose()


def _run(connection: Connection, revision: str) -> None:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        raise ConfigError(f"the database of teams is of another version of this program: {error}") from None
