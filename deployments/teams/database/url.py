"""Which databases can be named: an SQLite file, or a PostgreSQL server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from model.config import ConfigError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_SQLITE, _POSTGRESQL = "sqlite+aiosqlite", "postgresql+asyncpg"
_WANTED = f"{_SQLITE}:///PATH or {_POSTGRESQL}://USER:PASSWORD@HOST/NAME"
_PLAIN = re.compile(rf"{re.escape(_SQLITE)}:///([^:?%][^?%]*)", re.DOTALL)
"""An SQLite file whose path stands in the URL as it is, as that of the default database."""


def parse(url: str) -> URL:
    """Raises ConfigError, without the URL's text: a password may stand in it, wherever it was mistyped."""
    # A tenth of a second, which a server without keys does not pay.
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

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


def file_of(url: str) -> Path | None:
    """`sqlite_file` of what is not parsed yet. Raises ConfigError like `parse`."""
    plain = _PLAIN.fullmatch(url)
    return sqlite_file(parse(url)) if plain is None else Path(plain[1])


def exists(url: str) -> bool:
    """False only for an SQLite file that is not there: nothing was ever made. Raises ConfigError like `parse`."""
    file = file_of(url)
    return file is None or file.exists()
