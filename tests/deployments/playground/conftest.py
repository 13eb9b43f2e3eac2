"""The office that the page of teams is looked at in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from deployments.teams.money import PER_DOLLAR
from deployments.teams.records import Budget, Limits
from deployments.teams.store import Store
from model.text.tokenizer import Tokenizer
from tests.support.identity_provider import IdentityProvider, identity_provider
from tests.support.signed_in_app import Office, office


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    with identity_provider() as provider:
        provider.add("ada", "Ada Lovelace", "admins")
        provider.add("bob", "Bob Jansen", "searchers")
        provider.add("cas", "Cas de Vries", "leads")
        provider.add("dot", "Dot")
        yield provider


@pytest.fixture
def running(provider: IdentityProvider, tokenizer: Tokenizer, tmp_path: Path) -> Iterator[Office]:
    provider.here = None
    with office(provider, tokenizer, tmp_path) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def store(running: Office) -> AsyncIterator[Store]:
    store = await running.store()
    limits = Limits(requests_per_minute=600, tokens_per_minute=250_000, parallel=20)
    await store.create_team("local", "search", limits=limits, budget=Budget(amount=20 * PER_DOLLAR))
    await store.create_team("local", "ads", service_class="batch")
    yield store
    await store.close()
