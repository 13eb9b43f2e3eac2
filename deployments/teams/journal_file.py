"""A journal on disk: a file to which one process appends, and a lock that says whether the process lives.

What is written outlives the process when `write` returns, and the machine when `sync` does, which takes longer. Each is
one call of the system: whenever a thread comes back from one, it waits for Python's lock, for up to
`sys.getswitchinterval()` where the event loop is busy.

Closed rows are read in the order in which they were closed. How far they are booked is written behind them; nothing is
ever written over, and the file goes as a whole. Not for several threads at a time, but for `sync`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from deployments.teams.journal_lines import Booked, Change, Record, from_line, to_line
from deployments.teams.records import LedgerEntry

_READ_BYTES = 1 << 18


class Waiting(NamedTuple):
    """Closed rows that are not booked: how many, and when the oldest of them ended, in Unix seconds."""

    rows: int
    oldest_at: float | None


class JournalFile:
    """path: ends in `.log`. lock: of the file beside it, once there is one. reached: hears where a write stands.

    open_rows: their last word is not written; whoever has the file counts them. closed_rows: not booked yet. size: in
    bytes. damaged: there are lines that nobody can read. adopted: another process began it.
    """

    def __init__(self, directory: Path, reached: Callable[[str], None] = lambda point: None) -> None:
        """A new one, for this process; it is made when something is written."""
        self.path = directory / f"usage-{os.getpid()}-{uuid.uuid4().hex[:8]}.log"
        self.lock: int | None = None
        self.open_rows = self.closed_rows = 0
        self.size = 0
        self.damaged = self.adopted = False
        self._reached = reached
        self._descriptor: int | None = None
        self._booked_to = self._read_to = 0

    @classmethod
    def adopt(cls, path: Path, now: float, reached: Callable[[str], None]) -> tuple[JournalFile, int] | None:
        """One whose process is dead: what is open has ended with its last word; with how many rows those were.

        None where the process lives. Raises OSError.
        """
        if (lock := _locked(path.with_suffix(".lock"))) is None:
            return None
        file = cls(path.parent, reached)
        file.path, file.lock, file.adopted = path, lock, True
        try:
            file._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            left = file._replay()
            file.write([Change("close", msgspec.structs.replace(entry, estimated=True), now) for entry in left])
        except BaseException:
            file.abandon()
            raise
        return file, len(left)

    @property
    def done(self) -> bool:
        """Whether there is nothing in it that has to be kept."""
        return not self.open_rows and not self.closed_rows

    def write(self, changes: Sequence[Change]) -> None:
        """All of them, or, where it raises OSError, none."""
        kinds = sorted({change.kind for change in changes})
        self._at(kinds, "asked")
        self._append(changes)
        self.closed_rows += sum(change.kind == "close" for change in changes)
        self._at(kinds, "written")

    def sync(self) -> None:
        """What was written before is on the disk. Raises OSError."""
        if self._descriptor is not None:  # else all of it is booked by now
            os.fdatasync(self._descriptor)
        self._at(["sync"], "flushed")

    def closed(self, most: int) -> list[LedgerEntry]:
        """The first that are closed and not booked, in the order in which they were. Raises OSError."""
        entries: list[LedgerEntry] = []
        self._read_to = self._booked_to
        for end, record in self._records(self._booked_to):
            if isinstance(record, Change) and record.kind == "close":
                entries.append(record.entry)
                self._read_to = end
            if len(entries) == most:
                break
        return entries

    def booked(self, rows: int) -> None:
        """Those that `closed` said last, so many."""
        self._at(["drain"], "booked")
        self._booked_to = self._read_to
        self.closed_rows -= rows
        with contextlib.suppress(OSError):  # whoever reads them again books nothing new, and a full disk gets room
            self._append([Booked(self._read_to)])
        self._at(["drain"], "noted")

    def waiting(self) -> Waiting:
        """At this moment. Raises OSError."""
        rows = self.closed_rows
        records = (record for _, record in self._records(self._booked_to)) if rows else iter(())
        oldest = (one.closed_at for one in records if isinstance(one, Change) and one.kind == "close")
        return Waiting(rows, next(oldest, None))

    def abandon(self) -> None:
        """Leave it as it is for whoever comes next."""
        left = self._descriptor, self.lock
        self._descriptor = self.lock = None  # before the numbers may be somebody else's: `sync` looks here
        for descriptor in left:
            if descriptor is not None:
                os.close(descriptor)

    def end(self) -> None:
        """Give it up: removed where nothing is in it, else left.

        What was damaged is kept, under a name by which nobody looks for it: people may.
        """
        try:
            if self.done and self.lock is not None:
                if self.damaged:
                    self.path.rename(self.path.with_suffix(".damaged"))
                self.path.unlink(missing_ok=True)
                self.path.with_suffix(".lock").unlink(missing_ok=True)
        finally:
            self.abandon()

    def _append(self, records: Sequence[Record]) -> None:
        descriptor = self._made()
        lines = b"".join(map(to_line, records))
        try:
            if os.pwrite(descriptor, lines, self.size) < len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):  # what comes next is written over it
                os.ftruncate(descriptor, self.size)
            raise
        self.size += len(lines)

    def _made(self) -> int:
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Who looks for the journals of the dead may be faster.
            while self.lock is None:
                self.lock = _locked(self.path.with_suffix(".lock"))
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                _flush(self.path.parent)
            except BaseException:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
        return self._descriptor

    def _records(self, start: int) -> Iterator[tuple[int, Record | None]]:
        """From a place on, each with the place where it ends; None for one that is damaged."""
        with self.path.open("rb", buffering=_READ_BYTES) as file:
            file.seek(start)
            for line in file:
                start += len(line)
                if start > self.size or not line.endswith(b"\n"):
                    return  # nobody was told that it is written
                yield start, from_line(line)

    def _replay(self) -> list[LedgerEntry]:
        """What another process has left open, as it said last."""
        assert self._descriptor is not None
        opened: dict[str, LedgerEntry] = {}
        closed: list[int] = []
        end, self.size = 0, os.fstat(self._descriptor).st_size
        for end, record in self._records(0):
            match record:
                case None:
                    self.damaged = True
                case Booked():
                    self._booked_to = record.up_to
                case Change(kind="open" | "note"):
                    opened[record.entry.id] = record.entry
                case Change():
                    opened.pop(record.entry.id, None)
                    if record.kind == "close":
                        closed.append(end)
        self.size = end
        os.ftruncate(self._descriptor, end)  # half a line
        self.closed_rows = sum(place > self._booked_to for place in closed)
        return list(opened.values())

    def _at(self, kinds: Sequence[str], point: str) -> None:
        for kind in kinds:
            self._reached(f"{kind}.{point}")


def journals(directory: Path) -> list[Path]:
    """Of this node's processes, dead or alive."""
    return [path.with_suffix(".log") for path in sorted(directory.glob("usage-*.lock"))]


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
