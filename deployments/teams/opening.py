"""From settings to the database and its secret."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from deployments.team_settings import TeamsSettings, data_directory
from deployments.teams.keys import Pepper
from deployments.teams.store import Store
from model.config import ConfigError

_SQLITE = "sqlite"


def database_file(url: str) -> Path | None:
    """Of an SQLite database; None for another."""
    parts = urlsplit(url)
    if not parts.scheme.startswith(_SQLITE):
        return None
    return Path(unquote(parts.path.removeprefix("/")) or ":memory:")


def pepper_file(settings: TeamsSettings) -> Path:
    """Raises ConfigError where it has to be named: a database that several machines share has no place beside it."""
    if settings.pepper_file is not None:
        return settings.pepper_file.expanduser()
    file = database_file(settings.database)
    if file is None:
        raise ConfigError(
            "teams.pepper_file is needed with a database that is not SQLite: the same secret on every node"
        )
    return file.with_name(f"{file.name}.pepper")


def pepper(settings: TeamsSettings, make: bool = False) -> Pepper:
    """make: where there is none, one is made. Raises ConfigError."""
    return Pepper.from_file(pepper_file(settings), make)


def journal_directory(settings: TeamsSettings) -> Path:
    """Where a node's usage waits for the database."""
    if settings.journal_directory is not None:
        return settings.journal_directory.expanduser()
    file = database_file(settings.database)
    return (data_directory() if file is None else file.parent) / "journal"


async def open_store(settings: TeamsSettings, clock: Callable[[], float] = time.time) -> Store | None:
    """None while nothing was ever made. Raises ConfigError, and StoreUnavailableError."""
    if not Store.exists(settings.database):
        return None
    return await Store.open(settings.database, clock)
