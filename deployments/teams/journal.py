"""What was used and is not in the database yet: a journal on this node's disk, which outlives its process.

A row is opened before the engine is asked and closed when the request has ended; closed rows are booked, and then noted
as such. Rows that a dead process left open are booked as they stand, as estimated. Booking is idempotent by id: a row
that was booked and not noted is booked once all the same. A file that is full is followed by another, and goes when all
that is in it is booked.

All that is to be written while something is being written is written next, in a thread: the event loop waits for no
disk. A second thread flushes what the first has written, for all requests of that moment at once, while the engine
works: that takes 0.2 ms on an idle SSD, and easily 10 on a busy one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from deployments.teams.journal_batch import Batch, Pending
from deployments.teams.journal_file import JournalFile, Waiting, journals, keep_refused
from deployments.teams.journal_lines import Change
from deployments.teams.records import LedgerEntry
from deployments.teams.store_errors import InvalidChangeError
from deployments.teams.unbooked import Unbooked
from deployments.teams.worker import Worker
from monitoring import logs

NOTED_S = 1.0
"""Newer words on rows that stay open are written in such a time, all at once."""

AGAIN_S = 1.0
"""After a failure of the disk, what has to be written is tried again; until then nobody begins."""

MOST_AT_ONCE = 500
DEFAULT_BYTES = 1 << 30
FILE_BYTES = 16 << 20

Book = Callable[[Sequence[LedgerEntry]], Awaitable[int]]


class JournalError(Exception):
    """The journal cannot take another row: the disk fails, or it has reached its size."""


class Opened(NamedTuple):
    """written: from now on nothing is lost if this process is killed; on_disk: nor if the machine loses power.

    Both raise JournalError.
    """

    written: asyncio.Future[None]
    on_disk: asyncio.Future[None]


_Flush = tuple[JournalFile, asyncio.Future[None]]


class Journal:
    """The journal of one process, and those of dead ones that it has adopted. To be used in one event loop.

    directory: of the node, shared by its processes; nothing is there before the first row. most_bytes: of the files of
    this process; beyond them no row is opened any more. reached: hears where a write stands. refused: how many rows the
    database has refused for good. unbooked: hears of what this process closes, and of what of that is booked.
    file_bytes: of each file, about.
    """

    def __init__(
        self,
        directory: Path,
        most_bytes: int = DEFAULT_BYTES,
        clock: Callable[[], float] = time.time,
        reached: Callable[[str], None] = lambda point: None,
        unbooked: Unbooked | None = None,
        file_bytes: int = FILE_BYTES,
    ) -> None:
        self._directory = directory
        self._most_bytes = most_bytes
        self._clock = clock
        self._reached = reached
        self._unbooked = unbooked or Unbooked()
        self._file_bytes = min(file_bytes, most_bytes)
        self._writer = Worker("journal", self._take, Batch.write, self._wrote)
        self._flusher = Worker("journal-flush", self._take_unflushed, _sync, self._synced)
        self._own = JournalFile(directory, reached)
        self._others: list[JournalFile] = []
        self._pending: list[Pending] = []
        self._rows: dict[str, JournalFile] = {}
        self._notes: dict[str, LedgerEntry] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._unflushed: list[_Flush] = []
        self.refused = 0
        self._refuses = False
        self._failure: str | None = None
        self._stopped = False

    @property
    def _files(self) -> list[JournalFile]:
        return [*self._others, self._own]

    def open(self, entry: LedgerEntry) -> Opened:
        """entry: what is booked if nothing more is heard. Raises JournalError."""
        if self._failure is not None:
            raise JournalError(self._failure)
        if sum(file.size for file in self._files if not file.adopted) >= self._most_bytes:
            raise self._refusal(f"The journal has reached {self._most_bytes} bytes.")
        self._turn_page()
        on_disk: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        on_disk.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody need ask
        self._rows[entry.id] = self._own
        self._own.open_rows += 1
        return Opened(self._add(self._own, Change("open", entry), on_disk), on_disk)

    def note(self, entry: LedgerEntry) -> None:
        """A newer word on a row that is open; written within `NOTED_S`, with others."""
        assert entry.id in self._rows
        self._notes[entry.id] = entry
        self._later(NOTED_S)

    def close(self, entry: LedgerEntry) -> asyncio.Future[None]:
        """The last word. Done when it is written; nobody need wait for that."""
        if entry.id in self._rows:
            self._unbooked.ended(entry)
        return self._end(Change("close", entry, entry.ended_at))

    def withdraw(self, entry: LedgerEntry) -> asyncio.Future[None]:
        """Nothing was computed, and nothing will be booked."""
        return self._end(Change("withdraw", entry))

    async def drain(self, book: Book, most: int = MOST_AT_ONCE) -> int:
        """Have so many closed rows booked, or all if there are fewer. Returns how many.

        What the database refuses for good is set aside, and counted as well. Raises what else `book` raises, and
        OSError where the disk fails.
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
            await self._writer.do(file.booked, len(entries))
            if not file.adopted:
                self._unbooked.booked(entries)
        self._turn_page()
        for file in [file for file in self._others if file.done]:
            self._others.remove(file)
            await self._writer.do(file.end)
        self.refused += len(refused)
        return most - left

    async def adopt(self) -> int:
        """Take over the journals of processes that have died. Returns how many."""
        paths = await asyncio.to_thread(journals, self._directory)
        files = [await asyncio.to_thread(self._adopt, path) for path in paths]
        adopted = [file for file in files if file is not None]
        self._others += adopted
        return len(adopted)

    async def waiting(self) -> Waiting:
        each = [await self._writer.do(file.waiting) for file in self._files]
        oldest = [one.oldest_at for one in each if one.oldest_at is not None]
        return Waiting(sum(one.rows for one in each), min(oldest, default=None))

    async def stop(self) -> None:
        """Write what is to be written. What is not booked stays for the next process."""
        if self._stopped:
            return
        self._stopped = True
        self._try_again()
        await self._writer.rests()
        if self._timer is not None:
            self._timer.cancel()
        for one in self._pending:
            one.written.cancel()
        await self._flusher.rests()
        for file in self._files:
            await self._writer.do(file.end)
        self._writer.stop()
        self._flusher.stop()

    def _turn_page(self) -> None:
        """Where the file is full, what begins from now on begins in another."""
        if self._own.size >= self._file_bytes:
            self._others.append(self._own)
            self._own = JournalFile(self._directory, self._reached)

    def _end(self, change: Change) -> asyncio.Future[None]:
        """Of a row that could not be opened, or has ended, there is nothing to write."""
        self._notes.pop(change.entry.id, None)
        if (file := self._rows.pop(change.entry.id, None)) is not None:
            return self._add(file, change)
        nothing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        nothing.set_result(None)
        return nothing

    def _add(
        self, file: JournalFile, change: Change, on_disk: asyncio.Future[None] | None = None
    ) -> asyncio.Future[None]:
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append(Pending(file, change, written, on_disk))
        self._wake()
        return written

    def _wake(self) -> None:
        if self._failure is not None:
            return  # what is there is tried again at its time, and not with each request
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._writer.wake()

    def _later(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._try_again)

    def _try_again(self) -> None:
        self._failure = None
        self._wake()

    def _take(self) -> Batch | None:
        if self._failure is not None or not (self._pending or self._notes):
            return None
        pending, self._pending = self._pending, []
        notes, self._notes = self._notes, {}
        return Batch(pending, [(self._rows[id], Change("note", entry)) for id, entry in notes.items()])

    def _wrote(self, batch: Batch, error: Exception | None) -> None:
        written, failed = batch.parted()
        for one in written:
            _done(one.written)
            if one.on_disk is not None:
                self._refuses = False
                self._unflushed.append((one.file, one.on_disk))
            else:
                one.file.open_rows -= 1
        if error is not None:
            self._failed(failed, error)
        self._flusher.wake()

    def _take_unflushed(self) -> list[_Flush] | None:
        """Of all that is written until it begins."""
        unflushed, self._unflushed = self._unflushed, []
        return unflushed or None

    def _synced(self, unflushed: list[_Flush], error: Exception | None) -> None:
        refusal = None if error is None else self._refusal(f"The journal does not reach the disk: {error}.")
        for _, on_disk in unflushed:
            _done(on_disk, refusal)

    def _failed(self, pending: list[Pending], error: Exception) -> None:
        """Whoever wants to begin may not. What has ended is not lost: it is written when the disk is well again."""
        refusal = self._refusal(f"The journal cannot be written: {error}.")
        pending = [*pending, *self._pending]
        refused = {one.change.entry.id: one for one in pending if one.change.kind == "open"}
        for one in pending:
            if one.change.entry.id in refused:
                _done(one.written, refusal if one.change.kind == "open" else None)
        for id, one in refused.items():
            self._rows.pop(id, None)
            one.file.open_rows -= 1
        self._pending = [one for one in pending if one.change.entry.id not in refused]
        self._failure = str(refusal)
        if not self._stopped:
            self._later(AGAIN_S)

    def _refusal(self, message: str) -> JournalError:
        """Told in the log once, until somebody may begin again."""
        if not self._refuses:
            self._refuses = True
            logs.event("usage.journal_failed", message, level=logging.ERROR, path=str(self._directory))
        return JournalError(message)

    def _adopt(self, path: Path) -> JournalFile | None:
        """None where its process lives, there is nothing in it, or it cannot be read now."""
        try:
            if (found := JournalFile.adopt(path, self._clock(), self._reached)) is None:
                return None
            file, estimated = found
            if file.damaged:
                _tell_damage("some lines are not what was written", path.with_suffix(".damaged"))
            if file.done:
                file.end()
                return None
        except OSError as error:
            _tell_damage(str(error), path)
            return None
        logs.event("usage.journal_adopted", rows=file.closed_rows, estimated=estimated, path=str(path))
        return file

    async def _closed(self, file: JournalFile, most: int) -> list[LedgerEntry]:
        try:
            return await self._writer.do(file.closed, most)
        except OSError as error:
            if not file.adopted:
                raise
            self._others.remove(file)
            file.abandon()
            _tell_damage(str(error), file.path)
            return []

    async def _set_aside(self, refused: Sequence[LedgerEntry]) -> None:
        """What no attempt would book must not hold up all that comes after it: people may look at it."""
        path = await self._writer.do(keep_refused, self._directory, refused)
        ids = ", ".join(entry.id for entry in refused)
        logs.event("usage.entries_refused", ids, level=logging.ERROR, rows=len(refused), path=str(path))


def _tell_damage(what: str, path: Path) -> None:
    logs.event("usage.journal_damaged", what, level=logging.ERROR, path=str(path))


def _sync(unflushed: Sequence[_Flush]) -> None:
    for file in {file for file, _ in unflushed}:
        file.sync()


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
