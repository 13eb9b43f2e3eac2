"""From settings to the database and its secret."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.team_settings import TeamsSettings, data_directory
from deployments.teams.database.url import exists, file_of
from deployments.teams.keys import Pepper
from model.config import ConfigError

if TYPE_CHECKING:
    from deployments.teams.store import Store


def pepper_file(settings: TeamsSettings) -> Path:
    """Raises ConfigError where it has to be named: a database that several machines share has no place beside it."""
    if settings.pepper_file is not None:
        return settings.pepper_file.expanduser()
    file = file_of(settings.database)
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
    file = file_of(settings.database)
    return (data_directory() if file is None else file.parent) / "journal"


async def open_store(
    settings: TeamsSettings, make: bool = False, clock: Callable[[], float] = time.time
) -> Store | None:
    """None while nothing was ever made. make: it is made, then. Raises ConfigError, and StoreUnavailableError."""
    if not make and not exists(settings.database):
        return None
    from deployments.teams.store import Store  # a quarter of a second, which a server without keys does not pay

    return await Store.open(settings.database, clock)
