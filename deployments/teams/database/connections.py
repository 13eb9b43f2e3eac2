"""Connections and transactions of either database, and what becomes of their failures."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, RowMapping, Table, event, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from deployments.teams.database.url import sqlite_file
from deployments.teams.store_errors import InvalidChangeError, StoreUnavailableError, TooLongError

_POOL_SIZE = 4
_CONNECT_S = 5.0
_STATEMENT_S = 20.0
_BUSY_S = 10.0
"""So long a connection to SQLite waits for another process that writes."""
_MIGRATING_S = 30.0
"""And for all those that start in the same moment, each of which looks at the schema alone."""

_AGAIN_S = 0.01
"""Between attempts to have a file written ahead."""

_PIECE = 200
"""Rows that are written or read before others of the event loop have their turn: milliseconds."""

_STOP_S = 0.1
"""Between attempts to stop a report."""

_BEGIN = "sqlite_begin"

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]
Stop = Callable[[], Awaitable[None]]


def engine_for(url: URL, *, migrating: bool = False) -> AsyncEngine:
    """Parameters of statements stand in none of its errors. migrating: one connection, statements without end."""
    if sqlite_file(url) is not None:
        engine = create_async_engine(
            url,
            hide_parameters=True,
            connect_args={"timeout": _MIGRATING_S if migrating else _BUSY_S},
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
    deadline = time.monotonic() + _MIGRATING_S
    with contextlib.closing(sqlite3.connect(file, timeout=_BUSY_S)) as connection:
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:  # for others that are at the same SQLite does not always wait
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(_AGAIN_S)


class Database:
    """One pool of connections. Every failure of theirs becomes StoreUnavailableError.

    Who stops waiting for a transaction does not stop it: neither driver frees a connection at once that is at work, and
    until then SQLite has a lock that nobody holds.
    """

    def __init__(self, url: URL) -> None:
        self._url = url
        self._engine = engine_for(url)
        self._turn = asyncio.Lock() if sqlite_file(url) is not None else contextlib.nullcontext()
        self._reads = self._engine.execution_options(
            **({} if sqlite_file(url) is not None else {"isolation_level": "REPEATABLE READ"})
        )
        self._writes = self._engine.execution_options(**{_BEGIN: "IMMEDIATE"})
        self._running: set[asyncio.Task[object]] = set()

    async def close(self) -> None:
        """What was begun comes to its end."""
        if self._running:
            await asyncio.wait(self._running)
        await self._engine.dispose()

    async def read(self, work: Work[T]) -> T:
        """All that it reads is of one moment."""
        return await self._to_its_end(self._transaction(self._reads, work))

    async def report(self, work: Work[T], within_s: float) -> T:
        """Like `read`, but it ends with whoever waits for it, and after `within_s` seconds; then nothing of it runs.

        Raises TooLongError.
        """
        stops: list[Stop] = []

        async def stoppable(connection: AsyncConnection) -> T:
            stops.append(await self._stop_of(connection))
            return await work(connection)

        reading = self._begin(self._transaction(self._reads, stoppable))
        try:
            async with asyncio.timeout(within_s):
                return await asyncio.shield(reading)
        except TimeoutError:
            await self._to_its_end(_stopped(reading, stops))
            raise TooLongError(f"this took longer than {within_s:g} s: ask for less at once") from None
        except asyncio.CancelledError:
            await self._to_its_end(_stopped(reading, stops))
            raise

    async def write(self, work: Work[T]) -> T:
        """Commits what was done, unless it raises. SQLite has one writer at a time: in this process they queue here."""
        return await self._to_its_end(self._one_by_one(work))

    async def _one_by_one(self, work: Work[T]) -> T:
        async with self._turn:
            return await self._transaction(self._writes, work)

    async def _transaction(self, engine: AsyncEngine, work: Work[T]) -> T:
        with failures():
            async with engine.begin() as connection:
                return await work(connection)

    async def _to_its_end(self, transaction: Coroutine[Any, Any, T]) -> T:
        return await asyncio.shield(self._begin(transaction))

    def _begin(self, transaction: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(transaction)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def _stop_of(self, connection: AsyncConnection) -> Stop:
        """What breaks off the statement that a connection is at."""
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        if connection.dialect.name == "sqlite":
            interrupt: Stop = driver.interrupt
            return interrupt
        return partial(self._cancel, driver.get_server_pid())

    async def _cancel(self, backend: int) -> None:
        """By a connection outside the pool, all of whose own may be at reports."""
        with failures():
            async with engine_for(self._url, migrating=True).connect() as connection:
                await connection.execute(select(func.pg_cancel_backend(backend)))

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may be there any more to hear of it


async def _stopped(reading: asyncio.Task[T], stops: Sequence[Stop]) -> None:
    """Again until it has ended: between two statements there is nothing to stop."""
    while not reading.done():
        for stop in stops:
            with contextlib.suppress(StoreUnavailableError):
                await stop()
        await asyncio.wait({reading}, timeout=_STOP_S)


def upsert(connection: AsyncConnection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Each database has its own INSERT that may find what is there already."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def pieces(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Of a statement each: the event loop is held while it is written."""
    return (rows[start : start + _PIECE] for start in range(0, len(rows), _PIECE))


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
