"""The real app with sign-on and a ledger: a provider, an SQLite database, and the fake backend, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from deployments.http.metering import MeteredBackend
from deployments.http.people import People
from deployments.ingress import create_app
from deployments.sign_on_settings import GroupRole
from deployments.team_settings import TeamsSettings
from deployments.teams.administration import Administration, default_price
from deployments.teams.counting import Account
from deployments.teams.directory import Directory
from deployments.teams.drainer import Drainer
from deployments.teams.journal import Journal
from deployments.teams.keys import Pepper
from deployments.teams.local_counters import LocalCounters
from deployments.teams.oidc import Provider
from deployments.teams.principal import Principal
from deployments.teams.records import Price
from deployments.teams.sessions import Sessions
from deployments.teams.shared_store import SharedStore
from deployments.teams.sign_on import Groups, SignOn
from deployments.teams.store import Store
from deployments.teams.store_errors import StoreUnavailableError
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import MODEL, FakeBackend
from tests.support.http_server import serving
from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET, IdentityProvider
from tests.support.ports import free_port

PEPPER = Pepper(b"p" * 32)
GROUPS = Groups("admins", (GroupRole("searchers", "search", "member"), GroupRole("leads", "search", "owner")))


@dataclass
class Database:
    """away: it does not answer. questions: how often it was to be opened."""

    url: str
    away: bool = False
    questions: int = 0
    shared: SharedStore = field(init=False)

    def __post_init__(self) -> None:
        self.shared = SharedStore(self.url)

    async def open(self) -> Store:
        self.questions += 1
        if self.away:
            raise StoreUnavailableError("the database is away")
        return await self.shared.open()

    def administration(self, price: Price) -> Administration | None:
        store = self.shared.opened
        return None if store is None else Administration(store, lambda: PEPPER, price)


@dataclass
class Prices:
    """The books of `MeteredBackend`: teams by their limits, one price for all."""

    price_of_all: Price

    def accounts(self, principal: Principal) -> tuple[Account, ...]:
        assert principal.team is not None
        return (Account(id=f"team:{principal.team.id}", limits=principal.team.limits, budget=principal.team.budget),)

    def price(self, model: str) -> Price:
        return self.price_of_all


@dataclass
class Office:
    """url: of the server. Its parts run in the server's event loop."""

    url: str
    provider: IdentityProvider
    database: Database
    directory: Directory
    sign_on: SignOn
    backend: FakeBackend
    journal: Journal
    app: FastAPI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app, with teams that are never older than the request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        await self.directory.refresh()
        await self.app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        store = await self.database.open()
        drainer = Drainer(self.journal, store.book, period_s=0.1)
        await self.journal.start()
        drainer.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await drainer.stop(5.0)
        await self.journal.stop()
        await self.sign_on.close()
        await self.directory.close()
        await self.database.shared.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def sign_in(self, browser: httpx.AsyncClient, sub: str, target: str = "/teams") -> httpx.Response:
        """As somebody's browser does it; the answer of the callback."""
        begun = await browser.get(f"{self.url}/login", params={"next": target})
        assert begun.status_code == 303, begun.text
        asked = {name: values[0] for name, values in parse_qs(urlsplit(begun.headers["location"]).query).items()}
        async with httpx.AsyncClient() as at_provider:
            answer = await at_provider.get(f"{self.provider.issuer}/authorize", params={**asked, "login_as": sub})
        return await browser.get(answer.headers["location"])


@contextmanager
def office(
    provider: IdentityProvider, tokenizer: Tokenizer, directory: Path, window: int = 256, groups: Groups = GROUPS
) -> Iterator[Office]:
    """One that runs. directory: for its database."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    database = Database(f"sqlite+aiosqlite:///{directory / 'teams.sqlite'}")
    asker = Provider(provider.issuer, CLIENT_ID, CLIENT_SECRET, f"{url}/login/callback")
    sessions = Sessions(database.open, lambda: PEPPER)
    sign_on = SignOn(asker, sessions, database.open, groups, url, 3600.0)
    known = Directory(database.open, lambda: PEPPER, required=True)
    backend, journal, price = (
        FakeBackend(tokenizer, window),
        Journal(directory / "journal"),
        default_price(TeamsSettings()),
    )
    app = create_app(
        backend=MeteredBackend(backend, MODEL, Prices(price), LocalCounters(), journal),
        tokenizer=tokenizer,
        gatekeeper=known,
        people=People(sign_on, known),
        administration=lambda: database.administration(price),
    )
    running = Office(url, provider, database, known, sign_on, backend, journal, app)
    with serving(running, port, lifespan="on"):
        yield running
