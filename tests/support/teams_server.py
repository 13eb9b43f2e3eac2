"""The real app over a real database of teams, for administrators' clients."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployments.http.connection import GuardedProtocol
from deployments.ingress import create_app
from deployments.team_settings import TeamsSettings
from deployments.teams import opening
from deployments.teams.accepted import AcceptedBuffer
from deployments.teams.administration import Administration, default_price
from deployments.teams.directory import Directory
from deployments.teams.principal import Principal
from deployments.teams.store import Store
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import FakeBackend
from tests.support.http_server import serving


class FreshDirectory:
    """A gatekeeper that knows of every change at once, where a server takes two seconds."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory

    @property
    def closed(self) -> bool:
        return self.directory.closed

    async def principal(self, key: str) -> Principal:
        await self.directory.refresh()
        return await self.directory.principal(key)


@dataclass
class TeamsServer:
    """url: of the server. database: its URL. accepted: what editors told, which nobody flushes but a test."""

    url: str
    database: str
    accepted: AcceptedBuffer


def database_below(directory: Path) -> str:
    return f"sqlite+aiosqlite:///{directory / 'private' / 'teams.sqlite'}"


@contextmanager
def teams_server(database: str, tokenizer: Tokenizer) -> Iterator[TeamsServer]:
    settings = TeamsSettings(database=database)
    directory = Directory(
        lambda: opening.open_store(settings), lambda: opening.pepper(settings, make=True), required=True
    )

    def store() -> Store | None:
        return directory.store if isinstance(directory.store, Store) else None

    def administration() -> Administration | None:
        found = store()
        if found is None:
            return None
        return Administration(found, lambda make: opening.pepper(settings, make), default_price(settings))

    accepted = AcceptedBuffer(store)
    app = create_app(
        backend=FakeBackend(tokenizer),
        tokenizer=tokenizer,
        gatekeeper=FreshDirectory(directory),
        administration=administration,
        accepted=accepted.add,
    )
    with serving(app, http=GuardedProtocol) as url:
        try:
            yield TeamsServer(url, database, accepted)
        finally:
            if (opened := store()) is not None:
                asyncio.run(opened.close())
