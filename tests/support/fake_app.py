"""Fixtures: the ingress over a backend that answers a known text. A conftest imports those that its tests use, and
those that these use.

All tests share one app and one server, whose backend is new in each test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from deployments.ingress import create_app
from deployments.limits import ApiLimits
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import WINDOW, FakeBackend
from tests.support.http_server import serving
from tests.support.stage import Audience, Stage
from tests.support.tokenizers import starcoder_rules
from tests.support.waiting import wait_until

LIMITS = ApiLimits(max_body_bytes=100_000)


class Served(NamedTuple):
    url: str
    audience: Audience


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(starcoder_rules())


@pytest.fixture(scope="session")
def stage(tokenizer: Tokenizer) -> Stage:
    return Stage(FakeBackend(tokenizer))


@pytest.fixture(scope="session")
def shared_app(stage: Stage, tokenizer: Tokenizer) -> FastAPI:
    return create_app(backend=stage, tokenizer=tokenizer, limits=LIMITS)


@pytest.fixture(scope="session")
def served(shared_app: FastAPI) -> Iterator[Served]:
    audience = Audience(shared_app)
    with serving(audience) as url:
        yield Served(url, audience)


@pytest.fixture
def fake_backend(stage: Stage) -> FakeBackend:
    """The one behind `app`, `client` and `url`."""
    stage.actor = FakeBackend(stage.actor.tokenizer)
    return stage.actor


@pytest.fixture
def app(shared_app: FastAPI, fake_backend: FakeBackend) -> FastAPI:
    return shared_app


@pytest.fixture
def new_app(fake_backend: FakeBackend, tokenizer: Tokenizer) -> FastAPI:
    """One that has asked for no model yet, and has counted nothing."""
    return create_app(backend=fake_backend, tokenizer=tokenizer, limits=LIMITS)


@pytest.fixture
def url(served: Served, fake_backend: FakeBackend) -> Iterator[str]:
    """A real server with the app. What a test asks of it has ended when the test has."""
    yield served.url
    wait_until(lambda: not served.audience.present, "a request goes on after its test")


@pytest.fixture
def wide_app(new_app: FastAPI, fake_backend: FakeBackend) -> FastAPI:
    """One whose window has room for the introduction and the example of a plain dialogue."""
    fake_backend.window = 4 * WINDOW
    return new_app


@pytest.fixture
def wide_url(wide_app: FastAPI) -> Iterator[str]:
    with serving(wide_app) as url:
        yield url


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(app) as client:
        yield client


@pytest.fixture
async def new_client(new_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(new_app) as client:
        yield client


def in_process(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest_asyncio.fixture(loop_scope="session")
async def watched(context: Any, url: str) -> AsyncIterator[Any]:
    """The playground in the browser. Afterwards nothing may have been complained of or loaded from elsewhere."""
    from tests.support.browser import WatchedPage

    watched = await WatchedPage.open(context, url)
    yield watched
    await watched.page.close()
    assert watched.complaints == []
    assert watched.outside == []


@pytest.fixture
def page(watched: Any) -> Any:
    return watched.page
