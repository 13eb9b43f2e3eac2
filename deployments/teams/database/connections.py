"""Connections and transactions of either database, and what becomes of their failures."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, CursorResult, RowMapping, Table, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from deployments.teams.database.url import sqlite_file
from deployments.teams.store_errors import InvalidChangeError, StoreUnavailableError

_POOL_SIZE = 4
_CONNECT_S = 5.0
_STATEMENT_S = 20.0
_BUSY_S = 10.0
"""So long a connection to SQLite waits for another process that writes."""

_PIECE = 250
"""So many rows become records before others of the event loop have their turn."""

_BEGIN = "sqlite_begin"

T = TypeVar("T")


def engine_for(url: URL, *, migrating: bool = False) -> AsyncEngine:
    """Parameters of statements stand in none of its errors. migrating: one connection, statements without end."""
    if sqlite_file(url) is not None:
        engine = create_async_engine(
            url,
            hide_parameters=True,
            connect_args={"timeout": _BUSY_S},
            **({"poolclass": NullPool} if migrating else {"pool_size": _POOL_SIZE, "pool_timeout": _CONNECT_S}),
        )
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine
    if migrating:
        return create_async_engine(
            url, hide_parameters=True, poolclass=NullPool, connect_args={"timeout": _CONNECT_S, **_named({})}
        )
    settings = {
        "statement_timeout": f"{_STATEMENT_S:.0f}s",
        "idle_in_transaction_session_timeout": f"{2 * _STATEMENT_S:.0f}s",
    }
    return create_async_engine(
        url,
        hide_parameters=True,
        pool_size=_POOL_SIZE,
        max_overflow=0,
        pool_timeout=_CONNECT_S,
        pool_pre_ping=True,
        connect_args={"timeout": _CONNECT_S, "command_timeout": _STATEMENT_S + 5, **_named(settings)},
    )


def prepare(file: Path) -> None:
    """Makes an SQLite file where there is none, for this user only, whose readers do not wait for who writes.

    SQLite's other files take its mode.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL, 0o600))
    with contextlib.closing(sqlite3.connect(file, timeout=_BUSY_S)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


class Database:
    """One pool of connections. Every failure of theirs becomes StoreUnavailableError."""

    def __init__(self, url: URL) -> None:
        self._engine = engine_for(url)
        self._turn = asyncio.Lock() if sqlite_file(url) is not None else contextlib.nullcontext()
        self._reads = self._engine.execution_options(
            **({} if sqlite_file(url) is not None else {"isolation_level": "REPEATABLE READ"})
        )
        self._writes = self._engine.execution_options(**{_BEGIN: "IMMEDIATE"})

    async def close(self) -> None:
        await self._engine.dispose()

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """All that it reads is of one moment."""
        with failures():
            async with self._reads.begin() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Committed at the end of the block. SQLite has one writer at a time: in this process they queue here."""
        with failures():
            async with self._turn, self._writes.begin() as connection:
                yield connection


def upsert(connection: AsyncConnection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Each database has its own INSERT that may find what is there already."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


async def in_pieces(result: CursorResult[*tuple[object, ...]], make: Callable[[RowMapping], T]) -> list[T]:
    """What is made of the rows; others of the event loop have their turns between."""
    rows = result.mappings()
    made: list[T] = []
    while piece := rows.fetchmany(_PIECE):
        made += map(make, piece)
        await asyncio.sleep(0)
    return made


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """What a database or the way to it does wrong. Raises StoreUnavailableError, or InvalidChangeError where the
    tables' own rules refuse what should be written.
    """
    try:
        yield
    except OverflowError:
        raise InvalidChangeError(_UNFIT) from None
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        if _refused(error):
            raise InvalidChangeError(_UNFIT) from None
        raise StoreUnavailableError(f"the database of teams does not answer: {_told(error)}") from None


_UNFIT = "this does not fit the tables of the database"


def _refused(error: Exception) -> bool:
    """By the tables' rules, as a number or text that no column holds (SQLSTATE 22...), or by the driver as the same."""
    if not isinstance(error, DBAPIError) or error.orig is None:
        return False
    sqlstate: str | None = getattr(error.orig, "sqlstate", None)
    return (
        isinstance(error, IntegrityError)
        or (sqlstate is not None and sqlstate.startswith("22"))
        or isinstance(error.orig.__cause__, ValueError)
    )


def _told(error: BaseException) -> str:
    """Of a connection that failed, why; of a statement, the kind of failure: the rest may quote what was sent."""
    cause = error
    if isinstance(error, DBAPIError) and error.orig is not None:
        cause = error.orig.__cause__ or error.orig
        if error.statement is None:
            return f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}"
    return type(cause).__name__ + (f": {cause.strerror}" if isinstance(cause, OSError) and cause.strerror else "")


def _named(settings: dict[str, str]) -> dict[str, dict[str, str]]:
    return {"server_settings": {"application_name": "starcoder-serve", **settings}}


def _prepare_sqlite(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver begins no transactions: `_begin_sqlite` does
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get(_BEGIN, 'DEFERRED')}")
