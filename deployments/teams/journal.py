"""What was used and is not in the database yet: a journal on this node's disk, which outlives its process.

A row is opened before the engine is asked and closed when the request has ended; closed rows are booked and then
deleted. Rows that a dead process left open are booked as they stand, as estimated. Booking is idempotent by id: a row
that was booked and not deleted is booked once all the same.

All that is to be written while one transaction runs goes into the next one, in a thread: the event loop waits for no
disk. A second thread flushes what the first has written, for all requests of that moment at once, while the engine
works: that takes 0.2 ms on an idle SSD, and easily 10 on a busy one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from pathlib import Path
from typing import NamedTuple, TypeVar, TypeVarTuple

import msgspec

from deployments.teams.journal_file import Change, JournalFile, Kind, abandoned, is_damage, keep_refused, set_aside
from deployments.teams.records import LedgerEntry
from deployments.teams.store_errors import InvalidChangeError
from deployments.teams.unbooked import Unbooked
from monitoring import logs

NOTED_S = 1.0
"""Newer words on rows that stay open are written in such a time, all at once."""

AGAIN_S = 1.0
"""After a failure of the disk, what has to be written is tried again; until then nobody begins."""

MOST_AT_ONCE = 500
DEFAULT_BYTES = 1 << 30

Book = Callable[[Sequence[LedgerEntry]], Awaitable[int]]
Result = TypeVar("Result")
Values = TypeVarTuple("Values")


class JournalError(Exception):
    """The journal cannot take another row: the disk fails, or it has reached its size."""


class Opened(NamedTuple):
    """written: from now on nothing is lost if this process is killed; on_disk: nor if the machine loses power.

    Both raise JournalError.
    """

    written: asyncio.Future[None]
    on_disk: asyncio.Future[None]


class Waiting(msgspec.Struct, frozen=True):
    """Closed rows that are not booked: how many, and when the oldest of them ended, in Unix seconds."""

    rows: int
    oldest_at: float | None


class _Pending(NamedTuple):
    """on_disk: of a row that is opened."""

    change: Change
    written: asyncio.Future[None]
    on_disk: asyncio.Future[None] | None


class Journal:
    """The journal of one process, and those of dead ones that it has adopted. To be used in one event loop.

    directory: of the node, shared by its processes; nothing is there before the first row. most_bytes: of rows; beyond
    it none is opened any more. reached: hears where a write or a deletion stands. refused: how many rows the database
    has refused for good. unbooked: hears of what this process closes, and of what of that is booked.
    """

    def __init__(
        self,
        directory: Path,
        most_bytes: int = DEFAULT_BYTES,
        clock: Callable[[], float] = time.time,
        reached: Callable[[str], None] = lambda point: None,
        unbooked: Unbooked | None = None,
    ) -> None:
        self._directory = directory
        self._most_bytes = most_bytes
        self._clock = clock
        self._reached = reached
        self._unbooked = unbooked or Unbooked()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._flusher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal-flush")
        self._own: JournalFile | None = None
        self._adopted: list[JournalFile] = []
        self._pending: list[_Pending] = []
        self._rows: set[str] = set()
        self._notes: dict[str, LedgerEntry] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writer: asyncio.Task[None] | None = None
        self._unflushed: list[asyncio.Future[None]] = []
        self._flushing: asyncio.Task[None] | None = None
        self.refused = 0
        self._refuses = False
        self._failure: str | None = None
        self._stopped = False

    @property
    def _files(self) -> list[JournalFile]:
        return [*self._adopted, *([] if self._own is None else [self._own])]

    def open(self, entry: LedgerEntry) -> Opened:
        """entry: what is booked if nothing more is heard. Raises JournalError."""
        if self._failure is not None:
            raise JournalError(self._failure)
        if self._own is not None and self._own.size >= self._most_bytes:
            raise self._refusal(f"The journal has reached {self._most_bytes} bytes.")
        on_disk: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        on_disk.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody need ask
        self._rows.add(entry.id)
        return Opened(self._add("open", entry, on_disk), on_disk)

    def note(self, entry: LedgerEntry) -> None:
        """A newer word on a row that stays open; written within `NOTED_S`, with others."""
        self._notes[entry.id] = entry
        self._later(NOTED_S)

    def close(self, entry: LedgerEntry) -> asyncio.Future[None]:
        """The last word. Done when it is written; nobody need wait for that."""
        if entry.id in self._rows:
            self._unbooked.ended(entry)
        return self._end("close", entry)

    def withdraw(self, entry: LedgerEntry) -> asyncio.Future[None]:
        """Nothing was computed, and nothing will be booked."""
        return self._end("withdraw", entry)

    async def drain(self, book: Book, most: int = MOST_AT_ONCE) -> int:
        """Have so many closed rows booked, or all if there are fewer, and delete them. Returns how many.

        What the database refuses for good is set aside, and counted as well. Raises what else `book` raises, and
        sqlite3.Error or OSError where the disk fails.
        """
        batch: list[tuple[JournalFile, list[LedgerEntry]]] = []
        left = most
        for file in self._files:
            if file.closed_rows and left and (entries := await self._closed(file, left)):
                batch.append((file, entries))
                left -= len(entries)
        refused = await _refused(book, [entry for _, entries in batch for entry in entries])
        if refused:
            await self._set_aside(refused)
        for file, entries in batch:
            await self._do(file.delete, entries)
            if file is self._own:
                self._unbooked.booked(entries)
            if file is not self._own and not file.closed_rows:
                self._adopted.remove(file)
                await self._do(file.end)
        self.refused += len(refused)
        return most - left

    async def adopt(self) -> int:
        """Take over the journals of processes that have died. Returns how many."""
        adopted = await self._do(self._adopt)
        self._adopted += adopted
        return len(adopted)

    async def waiting(self) -> Waiting:
        files = self._files
        oldest = [at for file in files if (at := await self._do(file.oldest_closed_at)) is not None]
        return Waiting(sum(file.closed_rows for file in files), min(oldest, default=None))

    async def stop(self) -> None:
        """Write what is to be written. What is not booked stays for the next process."""
        if self._stopped:
            return
        self._stopped = True
        self._try_again()
        if self._writer is not None:
            await asyncio.wait([self._writer])
        if self._timer is not None:
            self._timer.cancel()
        for one in self._pending:
            one.written.cancel()
        if self._flushing is not None:
            await asyncio.wait([self._flushing])
        for file in self._files:
            await self._do(file.end)
        self._thread.shutdown(wait=False)
        self._flusher.shutdown(wait=False)

    def _end(self, kind: Kind, entry: LedgerEntry) -> asyncio.Future[None]:
        """Of a row that could not be opened, or has ended, there is nothing to write."""
        self._notes.pop(entry.id, None)
        if entry.id in self._rows:
            self._rows.remove(entry.id)
            return self._add(kind, entry)
        nothing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        nothing.set_result(None)
        return nothing

    def _add(self, kind: Kind, entry: LedgerEntry, on_disk: asyncio.Future[None] | None = None) -> asyncio.Future[None]:
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append(_Pending(Change(kind, entry), written, on_disk))
        self._wake()
        return written

    def _wake(self) -> None:
        if self._failure is not None:
            return  # what is there is tried again at its time, and not with each request
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writer is None or self._writer.done():
            # It is nobody's request: it must not end with the one that began it.
            self._writer = asyncio.get_running_loop().create_task(self._write(), context=Context())

    def _later(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._try_again)

    def _try_again(self) -> None:
        self._failure = None
        self._wake()

    async def _write(self) -> None:
        while self._pending or self._notes:
            pending, self._pending = self._pending, []
            notes, self._notes = self._notes, {}
            # A row is opened before it is noted, and what is closed by now has no note any more.
            changes = [one.change for one in pending] + [Change("note", entry) for entry in notes.values()]
            try:
                if self._own is None:
                    self._own = await self._do(JournalFile.make, self._directory, self._reached)
                await self._do(self._own.write, changes)
            except Exception as error:  # whatever it is, somebody waits for an answer
                self._failed(pending, error)
                return
            for one in pending:
                _done(one.written)
                if one.on_disk is not None:
                    self._refuses = False
                    self._unflushed.append(one.on_disk)
            if self._unflushed and (self._flushing is None or self._flushing.done()):
                self._flushing = asyncio.get_running_loop().create_task(self._flush(self._own), context=Context())

    async def _flush(self, own: JournalFile) -> None:
        """Once for all that is written until it begins."""
        while self._unflushed:
            unflushed, self._unflushed = self._unflushed, []
            error = None
            try:
                await _in(self._flusher, own.sync)
            except Exception as failure:  # whatever it is, somebody waits for an answer
                error = self._refusal(f"The journal does not reach the disk: {failure}.")
            for on_disk in unflushed:
                _done(on_disk, error)

    def _failed(self, pending: list[_Pending], error: Exception) -> None:
        """Whoever wants to begin may not. What has ended is not lost: it is written when the disk is well again."""
        refusal = self._refusal(f"The journal cannot be written: {error}.")
        pending = [*pending, *self._pending]
        refused = {one.change.entry.id for one in pending if one.change.kind == "open"}
        for one in pending:
            if one.change.entry.id in refused:
                _done(one.written, refusal if one.change.kind == "open" else None)
        self._rows -= refused
        self._pending = [one for one in pending if one.change.entry.id not in refused]
        if not self._stopped:
            self._failure = str(refusal)
            self._later(AGAIN_S)

    def _refusal(self, message: str) -> JournalError:
        """Told in the log once, until somebody may begin again."""
        if not self._refuses:
            self._refuses = True
            logs.event("usage.journal_failed", message, level=logging.ERROR, path=str(self._directory))
        return JournalError(message)

    def _adopt(self) -> list[JournalFile]:
        adopted = []
        for path, lock in abandoned(self._directory):
            try:
                file = JournalFile(path, lock, self._reached)
                estimated = file.close_all(self._clock())
            except (sqlite3.Error, OSError, msgspec.DecodeError) as error:
                self._let_go(path, lock, error)
                continue
            if file.closed_rows:
                logs.event("usage.journal_adopted", rows=file.closed_rows, estimated=estimated, path=str(path))
                adopted.append(file)
            else:
                file.end()
        return adopted

    async def _closed(self, file: JournalFile, most: int) -> list[LedgerEntry]:
        try:
            return await self._do(file.closed, most)
        except (sqlite3.Error, msgspec.DecodeError) as error:
            if file is self._own:
                raise
            self._adopted.remove(file)
            await self._do(file.abandon)
            await self._do(self._let_go, file.path, file.lock, error)
            return []

    async def _set_aside(self, refused: Sequence[LedgerEntry]) -> None:
        """What no attempt would book must not hold up all that comes after it: people may look at it."""
        path = await self._do(keep_refused, self._directory, refused)
        ids = ", ".join(entry.id for entry in refused)
        logs.event("usage.entries_refused", ids, level=logging.ERROR, rows=len(refused), path=str(path))

    @staticmethod
    def _let_go(path: Path, lock: int, error: Exception) -> None:
        """A dead process's journal that cannot be read: damaged, or for now."""
        if is_damage(error):
            path = set_aside(path, lock)
        else:
            os.close(lock)
        logs.event("usage.journal_damaged", str(error), level=logging.ERROR, path=str(path))

    async def _do(self, work: Callable[[*Values], Result], *values: *Values) -> Result:
        """In the journal's thread, which has one thing to do at a time."""
        return await _in(self._thread, work, *values)


async def _in(thread: ThreadPoolExecutor, work: Callable[[*Values], Result], *values: *Values) -> Result:
    return await asyncio.get_running_loop().run_in_executor(thread, work, *values)


async def _refused(book: Book, entries: Sequence[LedgerEntry]) -> list[LedgerEntry]:
    """Book them, but for those that the database refuses: by halves, it says of none which it was."""
    if not entries:
        return []
    try:
        await book(entries)
    except InvalidChangeError:
        if len(entries) == 1:
            return list(entries)
        middle = len(entries) // 2
        return [*await _refused(book, entries[:middle]), *await _refused(book, entries[middle:])]
    return []


def _done(future: asyncio.Future[None], error: Exception | None = None) -> None:
    if future.done():
        return  # whoever waited has left
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
