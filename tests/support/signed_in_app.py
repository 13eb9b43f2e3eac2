"""The real app with sign-on and a ledger: a provider, an SQLite database, and the fake backend, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs

import httpx
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from deployments.command.ports import free_port
from deployments.http.accounts import Accounts
from deployments.http.people import People
from deployments.ingress import create_app
from deployments.team_settings import TeamsSettings
from deployments.teams.local_counters import LocalCounters
from deployments.teams.opening import pepper
from deployments.teams.sign_on import SignOn
from deployments.teams.store import Store
from deployments.teams.store_errors import StoreUnavailableError
from model.text.tokenizer import Tokenizer
from monitoring import IngressMetrics
from tests.support.fake_backend import MODEL, FakeBackend
from tests.support.http_server import serving
from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET, IdentityProvider


class DatedAccounts(Accounts):
    """Keys and teams are never older than the request. away: the database does not answer; asked: how often it was."""

    away = False
    asked = 0

    async def _reached(self) -> Store:
        self.asked += 1
        if self.away:
            raise StoreUnavailableError("the database is away")
        return await super()._reached()


@dataclass
class Office:
    """url: of the server. Its parts run in the server's event loop."""

    url: str
    provider: IdentityProvider
    settings: TeamsSettings
    accounts: DatedAccounts
    backend: FakeBackend
    app: FastAPI

    @property
    def sign_on(self) -> SignOn:
        assert isinstance(self.accounts.people, People)
        return self.accounts.people.sign_on

    async def store(self) -> Store:
        """The same database, for the event loop that asks."""
        return await Store.open(self.settings.database)

    def key_digest(self, key: str) -> tuple[bytes, str]:
        """As the store has it, and the pepper's id."""
        found = pepper(self.settings, make=True)
        return found.digest(key), found.id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        await self.accounts.directory.refresh()
        await self.app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await self.accounts.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.accounts.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def sign_in(self, browser: httpx.AsyncClient, sub: str, target: str = "/teams") -> httpx.Response:
        return await sign_in(self.url, browser, sub, target)


async def sign_in(url: str, browser: httpx.AsyncClient, sub: str, target: str = "/teams") -> httpx.Response:
    """As somebody's browser does it at the server; the answer of the callback."""
    begun = await browser.get(f"{url}/login", params={"next": target})
    assert begun.status_code == 303, begun.text
    asks, _, asked = begun.headers["location"].partition("?")
    question = {name: values[0] for name, values in parse_qs(asked).items()}
    async with httpx.AsyncClient() as at_provider:
        answer = await at_provider.get(asks, params={**question, "login_as": sub})
    return await browser.get(answer.headers["location"])


@contextmanager
def office(provider: IdentityProvider, tokenizer: Tokenizer, directory: Path) -> Iterator[Office]:
    """One that runs. directory: for its database and its secrets.

    People of the provider's group `admins` are administrators; the team `search` has those of `searchers`, and those
    of `leads` as owners.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    secret = directory / "client-secret"
    secret.touch(mode=0o600)
    secret.write_text(CLIENT_SECRET)
    settings = TeamsSettings(
        database=f"sqlite+aiosqlite:///{directory / 'private' / 'teams.sqlite'}",
        public_url=url,
        oidc_issuer=provider.issuer,
        oidc_client_id=CLIENT_ID,
        oidc_client_secret_file=secret,
        oidc_admin_group="admins",
        oidc_team_groups="searchers=search:member,leads=search:owner",
        session_hours=1.0,
    )
    metrics = IngressMetrics(MODEL)
    accounts = DatedAccounts(settings, MODEL, LocalCounters(), metrics)
    backend = FakeBackend(tokenizer)
    app = create_app(
        backend=accounts.metered(backend),
        tokenizer=tokenizer,
        metrics=metrics,
        gatekeeper=accounts.directory,
        people=accounts.people,
        administration=accounts.administration,
        accepted=accounts.accepted,
    )
    running = Office(url, provider, settings, accounts, backend, app)
    with serving(running, port, lifespan="on"):
        yield running
