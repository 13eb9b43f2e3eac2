"""A journal on disk: an SQLite file of one process, and a lock that says whether the process lives.

What is written outlives the process when `write` returns, and the machine when `sync` does: SQLite leaves it to the
kernel (synchronous=NORMAL), and its log is flushed on its own, which takes longer. Not for several threads at a time,
but for `sync`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from deployments.teams.records import LedgerEntry

_SCHEMA = "CREATE TABLE IF NOT EXISTS entries (id TEXT PRIMARY KEY, closed_at REAL, entry BLOB NOT NULL) WITHOUT ROWID"
_OLDEST_OF = 100
_CHECKPOINT_PAGES = 4_000  # SQLite waits for the disk at each checkpoint
_ENDINGS = (".sqlite", ".sqlite-wal", ".sqlite-shm", ".sqlite-journal")

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(LedgerEntry).decode
_read_json = msgspec.json.Decoder(LedgerEntry).decode

Kind = Literal["open", "note", "close", "withdraw"]


class Change(msgspec.Struct, frozen=True):
    """What becomes of one row. note: a newer word on one that stays open. withdraw: there is nothing to book."""

    kind: Kind
    entry: LedgerEntry


class JournalFile:
    """path: ends in `.sqlite`. lock: of the file beside it, held. reached: hears where a write or a deletion stands."""

    def __init__(self, path: Path, lock: int, reached: Callable[[str], None] = lambda point: None) -> None:
        self.path = path
        self.lock = lock
        self.closed_rows = 0
        self.size = 0
        self._reached = reached
        with contextlib.suppress(FileExistsError):
            # SQLite gives the files that it makes beside it the same mode.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._database.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute(_SCHEMA)
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            _flush(path.parent)
            (self.closed_rows,) = self._row("SELECT count(*) FROM entries WHERE closed_at IS NOT NULL")
            self._measure()
        except BaseException:
            self._database.close()
            raise

    @classmethod
    def make(cls, directory: Path, reached: Callable[[str], None] = lambda point: None) -> JournalFile:
        """A new one, for this process. Raises OSError and sqlite3.Error."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        while True:
            path = directory / f"usage-{os.getpid()}-{uuid.uuid4().hex[:8]}.sqlite"
            # Who looks for the journals of the dead may have been faster.
            if (lock := _locked(path.with_suffix(".lock"))) is None:
                continue
            try:
                return cls(path, lock, reached)
            except BaseException:
                os.close(lock)
                raise

    def write(self, changes: Sequence[Change]) -> None:
        """All of them, or none. Raises sqlite3.Error."""
        kinds = sorted({change.kind for change in changes})
        self._at(kinds, "asked")
        with self._transaction():
            closed = sum(self._apply(change) for change in changes)
            self._at(kinds, "written")
        self.closed_rows += closed
        self._measure()
        self._at(kinds, "committed")

    def sync(self) -> None:
        """What was written before is on the disk. Raises OSError."""
        _flush(self.path.with_suffix(".sqlite-wal"))
        self._at(["sync"], "flushed")

    def closed(self, most: int) -> list[LedgerEntry]:
        """The first that are closed, in the order in which they began."""
        rows = self._database.execute(
            "SELECT entry FROM entries WHERE closed_at IS NOT NULL ORDER BY id LIMIT ?", (most,)
        )
        return [_decode(blob) for (blob,) in rows]

    def delete(self, entries: Sequence[LedgerEntry]) -> None:
        self._at(["drain"], "booked")
        with self._transaction():
            self._database.executemany("DELETE FROM entries WHERE id = ?", [(entry.id,) for entry in entries])
            self._at(["drain"], "deleted")
        self.closed_rows -= len(entries)
        self._measure()
        self._at(["drain"], "committed")

    def close_all(self, now: float) -> int:
        """Its process is dead: what is open has ended with its last word. Returns how many those were."""
        rows = self._database.execute("SELECT entry FROM entries WHERE closed_at IS NULL").fetchall()
        entries = [msgspec.structs.replace(_decode(blob), estimated=True) for (blob,) in rows]
        with self._transaction():
            self._database.executemany(
                "UPDATE entries SET closed_at = ?, entry = ? WHERE id = ?",
                [(now, _encode(entry), entry.id) for entry in entries],
            )
        self.closed_rows += len(entries)
        return len(entries)

    def oldest_closed_at(self) -> float | None:
        """Of those that began first, when the first one ended."""
        (oldest,) = self._row(
            "SELECT min(closed_at) FROM "
            "(SELECT closed_at FROM entries WHERE closed_at IS NOT NULL ORDER BY id LIMIT ?)",
            _OLDEST_OF,
        )
        return None if oldest is None else float(oldest)

    def abandon(self) -> None:
        """Close it, and keep its lock."""
        self._database.close()

    def end(self) -> None:
        """Give it up: removed where nothing is in it, else left for whoever comes next."""
        try:
            (rows,) = self._row("SELECT count(*) FROM (SELECT 1 FROM entries LIMIT 1)")
            self._database.close()
            if not rows:
                for ending in _ENDINGS:
                    self.path.with_suffix(ending).unlink(missing_ok=True)
                self.path.with_suffix(".lock").unlink(missing_ok=True)
        finally:
            self._database.close()
            os.close(self.lock)

    def _apply(self, change: Change) -> int:
        """Returns how many more rows are closed."""
        entry, execute = change.entry, self._database.execute
        if change.kind == "open":
            execute("INSERT INTO entries VALUES (?, NULL, ?)", (entry.id, _encode(entry)))
        elif change.kind == "note":
            execute("UPDATE entries SET entry = ? WHERE id = ? AND closed_at IS NULL", (_encode(entry), entry.id))
        elif change.kind == "withdraw":
            execute("DELETE FROM entries WHERE id = ? AND closed_at IS NULL", (entry.id,))
        else:
            return execute(
                "UPDATE entries SET closed_at = ?, entry = ? WHERE id = ? AND closed_at IS NULL",
                (entry.ended_at, _encode(entry), entry.id),
            ).rowcount
        return 0

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def _measure(self) -> None:
        (pages,), (free,), (page,) = (self._row(f"PRAGMA {n}") for n in ("page_count", "freelist_count", "page_size"))
        self.size = (pages - free) * page

    def _row(self, query: str, *values: int) -> tuple[int, ...]:
        row: tuple[int, ...] = self._database.execute(query, values).fetchone()
        return row

    def _at(self, kinds: Sequence[str], point: str) -> None:
        for kind in kinds:
            self._reached(f"{kind}.{point}")


def abandoned(directory: Path) -> Iterator[tuple[Path, int]]:
    """Journals whose process is dead, each with its lock, now held here."""
    for path in sorted(directory.glob("usage-*.lock")):
        if (lock := _locked(path)) is not None:
            yield path.with_suffix(".sqlite"), lock


def is_damage(error: Exception) -> bool:
    """Whether a file holds something else than a journal, so that another attempt would end as this one did."""
    damage = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, msgspec.DecodeError) or (isinstance(error, sqlite3.DatabaseError) and code in damage)


def set_aside(path: Path, lock: int) -> Path:
    """A damaged journal, under a name by which nobody looks for it: people may. Returns it."""
    kept = path.with_suffix(".damaged")
    for ending in _ENDINGS:
        with contextlib.suppress(FileNotFoundError):
            path.with_suffix(ending).rename(kept.with_suffix(ending.replace(".sqlite", ".damaged")))
    path.with_suffix(".lock").unlink(missing_ok=True)
    os.close(lock)
    return kept


def keep_refused(directory: Path, entries: Sequence[LedgerEntry]) -> Path:
    """Written to a file for people, each a line of JSON, and flushed. Returns its path. Raises OSError."""
    path = directory / "refused.jsonl"
    lines = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
    with open(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), "ab") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
    _flush(directory)
    return path


def _encode(entry: LedgerEntry) -> bytes:
    """MessagePack has no numbers above 2^64, JSON has: whether one is too large is for the database to say."""
    try:
        return _pack(entry)
    except OverflowError:
        return msgspec.json.encode(entry)


def _decode(row: bytes) -> LedgerEntry:
    return _read_json(row) if row.startswith(b"{") else _unpack(row)


def _locked(path: Path) -> int | None:
    """The lock on it; None where a living process has it, or has just removed it."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
