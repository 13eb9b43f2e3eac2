"""Stores on both databases, and virtual time for tests with that mark."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from deployments.teams.store import Store
from tests.support.journals import begin  # noqa: F401
from tests.support.postgres import Postgres
from tests.support.stores import Clock
from tests.support.virtual_time import loop_factories as pytest_asyncio_loop_factories  # noqa: F401

_KINDS = ["sqlite", "postgresql"]


@pytest.fixture(scope="session")
def migrated(postgres: Postgres) -> str:
    """The name of a database without a row, of which others are copies; nobody uses it."""

    async def make() -> str:
        name = await postgres.create()
        await (await Store.open(postgres.url(name))).close()
        return name

    with ThreadPoolExecutor(1) as thread:  # this one has an event loop already
        return thread.submit(asyncio.run, make()).result()


@pytest_asyncio.fixture(params=_KINDS)
async def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a database of either kind with nothing in it."""
    if request.param == "sqlite":
        yield _sqlite(tmp_path)
        return
    async with _copied(request.getfixturevalue("postgres")) as url:
        yield url


@pytest_asyncio.fixture(params=_KINDS)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a database of either kind without a row. PostgreSQL's has its tables: making them takes longer."""
    if request.param == "sqlite":
        yield _sqlite(tmp_path)
        return
    migrated: str = request.getfixturevalue("migrated")
    async with _copied(request.getfixturevalue("postgres"), migrated) as url:
        yield url


def _sqlite(directory: Path) -> str:
    return f"sqlite+aiosqlite:///{directory / 'private' / 'teams.sqlite'}"


@asynccontextmanager
async def _copied(server: Postgres, template: str = "template1") -> AsyncIterator[str]:
    name = await server.create(template)
    try:
        yield server.url(name)
    finally:
        await server.drop(name)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def store(database: str, clock: Clock) -> AsyncIterator[Store]:
    store = await Store.open(database, clock)
    yield store
    await store.close()
