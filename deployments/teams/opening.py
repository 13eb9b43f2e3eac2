"""From settings to the database and its secret."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from deployments.team_settings import TeamsSettings, data_directory
from deployments.teams.database.url import parse, sqlite_file
from deployments.teams.keys import Pepper
from deployments.teams.oidc import Provider
from deployments.teams.private_file import read_or_make
from deployments.teams.sessions import END_S, Sessions
from deployments.teams.sign_on import Groups, SignOn
from deployments.teams.store import Store
from model.config import ConfigError


def pepper_file(settings: TeamsSettings) -> Path:
    """Raises ConfigError where it has to be named: a database that several machines share has no place beside it."""
    if settings.pepper_file is not None:
        return settings.pepper_file.expanduser()
    file = sqlite_file(parse(settings.database))
    if file is None:
        raise ConfigError(
            "teams.pepper_file is needed with a database that is not SQLite: the same secret on every node"
        )
    return file.with_name(f"{file.name}.pepper")


def pepper(settings: TeamsSettings, make: bool = False) -> Pepper:
    """make: where there is none, one is made; not where it was named: other nodes may have it. Raises ConfigError."""
    return Pepper.from_file(pepper_file(settings), make and settings.pepper_file is None)


def journal_directory(settings: TeamsSettings) -> Path:
    """Where a node's usage waits for the database."""
    if settings.journal_directory is not None:
        return settings.journal_directory.expanduser()
    file = sqlite_file(parse(settings.database))
    return (data_directory() if file is None else file.parent) / "journal"


async def open_store(
    settings: TeamsSettings, make: bool = False, clock: Callable[[], float] = time.time
) -> Store | None:
    """None while nothing was ever made. make: it is made, then. Raises ConfigError, and StoreUnavailableError."""
    if not make and not Store.exists(settings.database):
        return None
    return await Store.open(settings.database, clock)


def sign_on(settings: TeamsSettings, open_store: Callable[[], Awaitable[Store]]) -> SignOn | None:
    """None where no provider is set. open_store: see `deployments.teams.shared_store`.

    Raises ConfigError where the client's secret or the pepper cannot be read.
    """
    if settings.oidc_issuer is None or settings.oidc_client_id is None or settings.public_url is None:
        return None
    secret = settings.oidc_client_secret_file
    public_url = settings.public_url.rstrip("/")
    provider = Provider(
        settings.oidc_issuer,
        settings.oidc_client_id,
        None if secret is None else read_or_make(secret.expanduser(), 1, make=False).decode(),
        f"{public_url}/login/callback",
        scopes=settings.oidc_scopes,
        groups_claim=settings.oidc_groups_claim,
    )
    sessions = Sessions(
        open_store,
        lambda: pepper(settings, make=True),
        refresh_s=min(settings.refresh_s, END_S),
        max_staleness_s=settings.max_staleness_s,
    )
    groups = Groups(settings.oidc_admin_group, settings.group_roles)
    return SignOn(provider, sessions, open_store, groups, public_url, 3600 * settings.session_hours)
