"""Administrators' routes over a real SQLite database: by a server, and in this process with keys of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from deployments.ingress import create_app
from deployments.team_settings import TeamsSettings
from deployments.teams.administration import Administration, default_price
from deployments.teams.store import Store
from model.text.tokenizer import Tokenizer
from tests.support.fake_app import tokenizer  # noqa: F401
from tests.support.fake_backend import FakeBackend
from tests.support.gatekeepers import Keyring
from tests.support.stores import PEPPER, Clock
from tests.support.teams_server import TeamsServer, database_below, teams_server


@pytest.fixture
def server(tmp_path: Path, tokenizer: Tokenizer) -> Iterator[TeamsServer]:  # noqa: F811
    with teams_server(database_below(tmp_path), tokenizer) as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    store = await Store.open(database_below(tmp_path), clock)
    yield store
    await store.close()


@pytest.fixture
def administration(store: Store, clock: Clock) -> Administration:
    return Administration(store, lambda make: PEPPER, default_price(TeamsSettings()), clock)


@pytest.fixture
def keyring() -> Keyring:
    return Keyring()


@pytest_asyncio.fixture
async def client(
    administration: Administration,
    keyring: Keyring,
    tokenizer: Tokenizer,  # noqa: F811
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(
        backend=FakeBackend(tokenizer),
        tokenizer=tokenizer,
        gatekeeper=keyring,
        administration=lambda: administration,
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
