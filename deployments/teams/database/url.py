"""Which databases can be named: an SQLite file, or a PostgreSQL server."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from model.config import ConfigError

_SQLITE, _POSTGRESQL = "sqlite+aiosqlite", "postgresql+asyncpg"
_WANTED = f"{_SQLITE}:///PATH or {_POSTGRESQL}://USER:PASSWORD@HOST/NAME"


def parse(url: str) -> URL:
    """Raises ConfigError, without the URL's text: a password may stand in it, wherever it was mistyped."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError(f"the database of teams is no URL; wanted is {_WANTED}") from None
    if parsed.drivername not in (_SQLITE, _POSTGRESQL):
        raise ConfigError(f"the database of teams is {parsed.drivername}; wanted is {_WANTED}")
    if parsed.drivername == _SQLITE and parsed.database in (None, "", ":memory:"):
        raise ConfigError(f"the database of teams is in memory, and would be forgotten; wanted is {_WANTED}")
    if parsed.drivername == _POSTGRESQL and not parsed.database:
        raise ConfigError(f"the database of teams has no name; wanted is {_WANTED}")
    return parsed


def sqlite_file(url: URL) -> Path | None:
    """None: it is no file of this machine."""
    return Path(url.database) if url.drivername == _SQLITE and url.database else None


def exists(url: str) -> bool:
    """False only for an SQLite file that is not there: nothing was ever made. Raises ConfigError like `parse`."""
    file = sqlite_file(parse(url))
    return file is None or file.exists()
