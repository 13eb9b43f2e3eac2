"""The index: a filter that says of nearly every window that it is not there, and a database of what is.

It holds the files' texts, so that what is said to be a copy has been compared with what it is a copy of.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

import numpy as np

from deployments.attribution.bloom import BloomFilter
from deployments.attribution.tiles import Compared, Hashes
from model.config import ConfigError

FORMAT = "1"
FILTER = "filter.npy"
DATABASE = "sources.sqlite"

SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE files (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, licence TEXT, text BLOB NOT NULL);
CREATE TABLE tiles (hash INTEGER NOT NULL, file INTEGER NOT NULL, place INTEGER NOT NULL,
    PRIMARY KEY (hash, file, place)) WITHOUT ROWID;
"""
"""hash: 64 bits as SQLite has them, with a sign. place: of the tile in the file, in characters without white space."""

MOST_PLACES = 16
"""Of a tile that stands in more places, so many are kept."""

_KEPT_FILES = 32
_AT_ONCE = 32
_BATCH = 100_000


@dataclass(frozen=True)
class IndexedFile:
    path: str
    licence: str | None
    text: str
    compared: Compared


class Index:
    """For one thread at a time."""

    def __init__(self, filter: BloomFilter, database: sqlite3.Connection) -> None:
        self._filter = filter
        self._database = database
        self.file = lru_cache(_KEPT_FILES)(self._read)
        """By number; None: it has been forgotten."""

    @classmethod
    def open(cls, directory: Path) -> Index:
        """Raises ConfigError."""
        try:
            return cls(BloomFilter.open(directory / FILTER), connect(directory))
        except (OSError, ValueError, sqlite3.Error) as error:
            raise ConfigError(
                f"{directory} is no index that `starcoder attribution build` has made: {error}"
            ) from error

    def places(self, hashes: Hashes) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Which of the hashes are those of tiles, in order: the number of each, and the files and places in them."""
        hits = self._filter.find(hashes)
        for start in range(0, len(hits), _AT_ONCE):
            batch = hits[start : start + _AT_ONCE]
            wanted = hashes[batch].view(np.int64).tolist()
            found: dict[int, list[tuple[int, int]]] = {hash: [] for hash in wanted}
            query = f"SELECT hash, file, place FROM tiles WHERE hash IN ({','.join('?' * len(found))})"
            for hash, file, place in self._database.execute(query, list(found)):
                found[hash].append((file, place))
            yield from ((at, found[hash]) for at, hash in zip(batch.tolist(), wanted, strict=True))

    def _read(self, number: int) -> IndexedFile | None:
        row = self._database.execute("SELECT path, licence, text FROM files WHERE id = ?", (number,)).fetchone()
        if row is None:
            return None
        path, licence, packed = row
        text = unpacked(packed)
        return IndexedFile(path, licence, text, Compared.of(text))

    def close(self) -> None:
        self._database.close()


def connect(directory: Path, mode: str = "ro") -> sqlite3.Connection:
    """Raises sqlite3.Error, and ValueError for an index of another format."""
    # Many threads may have it, one after the other.
    url = f"file:{quote(str((directory / DATABASE).absolute()))}?mode={mode}"
    database = sqlite3.connect(url, uri=True, check_same_thread=False)
    try:
        (found,) = database.execute("SELECT value FROM about WHERE name = 'format'").fetchone() or (None,)
        if found != FORMAT:
            raise ValueError(f"its format is {found}, not {FORMAT}: build it anew")
    except BaseException:
        database.close()
        raise
    return database


def distinct_hashes(database: sqlite3.Connection) -> Iterator[Hashes]:
    """Of all tiles, in parts."""
    cursor = database.execute("SELECT DISTINCT hash FROM tiles")
    while rows := cursor.fetchmany(_BATCH):
        yield np.array([row[0] for row in rows], np.int64).view(np.uint64)


def packed(text: str) -> bytes:
    return zlib.compress(text.encode("utf-8", "surrogatepass"))


def unpacked(data: bytes) -> str:
    return zlib.decompress(data).decode("utf-8", "surrogatepass")
