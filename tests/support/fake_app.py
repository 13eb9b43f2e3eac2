"""Fixtures: the ingress over a backend that answers a known text. A conftest imports those that its tests use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from deployments.ingress import create_app
from deployments.limits import ApiLimits
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import FakeBackend
from tests.support.http_server import serving
from tests.support.tokenizers import starcoder_rules


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(starcoder_rules())


@pytest.fixture
def fake_backend(tokenizer: Tokenizer) -> FakeBackend:
    return FakeBackend(tokenizer)


@pytest.fixture
def app(fake_backend: FakeBackend, tokenizer: Tokenizer) -> FastAPI:
    return create_app(backend=fake_backend, tokenizer=tokenizer, limits=ApiLimits(max_body_bytes=100_000))


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    """A real server with the app."""
    with serving(app) as url:
        yield url


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def watched(context: Any, url: str) -> AsyncIterator[Any]:
    """The playground in the browser. Afterwards nothing may have been complained of or loaded from elsewhere."""
    from tests.support.browser import WatchedPage

    watched = await WatchedPage.open(context, url)
    yield watched
    assert watched.complaints == []
    assert watched.outside == []


@pytest.fixture
def page(watched: Any) -> Any:
    return watched.page
