"""Makes an index of the files below a directory."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from deployments.attribution.bloom import BloomFilter
from deployments.attribution.index import (
    DATABASE,
    FILTER,
    FORMAT,
    MOST_PLACES,
    SCHEMA,
    connect,
    distinct_hashes,
    packed,
)
from deployments.attribution.licences import Licences
from deployments.attribution.opt_out import OptOut
from deployments.attribution.tiles import TILE, Compared
from model.config import ConfigError

MOST_BYTES = 1 << 18
"""Larger files are data, or written by programs."""

_ORPHANS = "SELECT hash, file, place FROM tiles WHERE file NOT IN (SELECT id FROM files)"
_FILES_AT_ONCE, _TILES_AT_ONCE = 100, 1_000
"""Of what is forgotten: each may lie in a page of its own."""

_SKIPPED = frozenset({"__pycache__", "node_modules"})


@dataclass
class Built:
    """What an index came to. optedout: files that were left out since their owners want it."""

    files: int = 0
    characters: int = 0
    tiles: int = 0
    opted_out: int = 0
    unknown_licences: int = 0


def build(
    directories: list[Path],
    out: Path,
    licence: str | None = None,
    opt_out: OptOut | None = None,
    told: Callable[[Built], None] = lambda built: None,
) -> Built:
    """Write an index to `out`, whole or not at all. told: hears how far it is after each file.

    Files are called by their directory's name and the path below it. Raises ConfigError.
    """
    names = [directory.resolve().name for directory in directories]
    if twice := sorted(name for name in set(names) if names.count(name) > 1):
        raise ConfigError(f"two directories are called {twice[0]}, so one could not tell their files apart: rename one")
    if out.exists():
        raise ConfigError(f"{out} is there already: name another directory, or remove it")
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    built = Built()
    try:
        unfinished.mkdir(parents=True)
        database = sqlite3.connect(unfinished / DATABASE)
        try:
            _fill(database, directories, licence, opt_out or OptOut(), built, told)
            BloomFilter.of(distinct_hashes(database), built.tiles).save(unfinished / FILTER)
        finally:
            database.close()
        unfinished.rename(out)
    except OSError as error:
        raise ConfigError(f"{error.filename or out}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise ConfigError(f"{out}: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return built


def forget(index: Path, opt_out: OptOut) -> int:
    """Take out of an index what is on the list, its text too; how many files. Servers that use it need no restart.

    They read between one batch and the next. Raises ConfigError; then what is left goes with the next call.
    """
    try:
        database = connect(index, "rw")
        try:
            database.execute("PRAGMA secure_delete = ON")
            # Else a write that does not fit would shut readers out from then on, until all is done.
            database.execute("PRAGMA cache_spill = OFF")
            files = [(number,) for number, path in database.execute("SELECT id, path FROM files") if path in opt_out]
            _delete(database, "files WHERE id = ?", files, _FILES_AT_ONCE)
            database.execute(f"CREATE TEMP TABLE orphans AS {_ORPHANS}")
            orphans = database.execute("SELECT * FROM orphans")
            _delete(database, "tiles WHERE hash = ? AND file = ? AND place = ?", orphans, _TILES_AT_ONCE)
        finally:
            database.close()
    except (sqlite3.Error, ValueError) as error:
        raise ConfigError(f"{index}: {error}") from error
    return len(files)


def _delete(database: sqlite3.Connection, which: str, rows: Iterable[tuple[int, ...]], at_once: int) -> None:
    rows = iter(rows)
    while batch := list(islice(rows, at_once)):
        with database:
            database.executemany(f"DELETE FROM {which}", batch)


def _fill(
    database: sqlite3.Connection,
    directories: list[Path],
    licence: str | None,
    opt_out: OptOut,
    built: Built,
    told: Callable[[Built], None],
) -> None:
    database.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {SCHEMA}")
    database.execute("CREATE TEMP TABLE found (hash INTEGER, file INTEGER, place INTEGER)")
    for directory in directories:
        licences = Licences(directory, licence)
        for path, text in _texts(directory):
            name = _name(directory, path)
            if name in opt_out:
                built.opted_out += 1
                continue
            under = licences.of(path, text)
            compared = Compared.of(text)
            entry = database.execute(
                "INSERT INTO files (path, licence, text) VALUES (?, ?, ?)", (name, under, packed(text))
            )
            tiles = compared.tiles().view(np.int64).tolist()
            rows = ((hash, entry.lastrowid, number * TILE) for number, hash in enumerate(tiles))
            database.executemany("INSERT INTO found VALUES (?, ?, ?)", rows)
            built.files += 1
            built.characters += len(text)
            built.unknown_licences += under is None
            told(built)
    # Sorted first: rows in any order would be put into all corners of a large file.
    numbered = "SELECT *, row_number() OVER (PARTITION BY hash ORDER BY file, place) AS number FROM found"
    database.execute(
        f"INSERT INTO tiles SELECT hash, file, place FROM ({numbered}) WHERE number <= ? ORDER BY hash, file, place",
        (MOST_PLACES,),
    )
    (built.tiles,) = database.execute("SELECT count(DISTINCT hash) FROM tiles").fetchone()
    about = {"format": FORMAT, "built_at": str(int(time.time())), "files": str(built.files)}
    database.executemany("INSERT INTO about VALUES (?, ?)", about.items())
    database.commit()


def _name(directory: Path, path: Path) -> str:
    """Of bytes that are no UTF-8, their numbers: neither the database nor an answer can hold them."""
    name = f"{directory.resolve().name}/{path.relative_to(directory).as_posix()}"
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _texts(directory: Path) -> Iterator[tuple[Path, str]]:
    """Files that people may have written: UTF-8, not large, not hidden, no links."""
    for path in sorted(directory.iterdir()):
        if path.name.startswith(".") or path.name in _SKIPPED or path.is_symlink():
            continue
        if path.is_dir():
            yield from _texts(path)
        elif path.is_file() and path.stat().st_size <= MOST_BYTES:
            data = path.read_bytes()
            if b"\0" in data:
                continue
            try:
                yield path, data.decode("utf-8")
            except UnicodeDecodeError:
                continue
