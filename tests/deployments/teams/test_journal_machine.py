"""Whatever happens to journals, processes and the database in whatever order, the ledger holds what was owed, once."""

from __future__ import annotations

import asyncio
import errno
import shutil
import tempfile
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from deployments.teams.journal import Journal, JournalError
from deployments.teams.records import LedgerEntry
from deployments.teams.store_errors import StoreUnavailableError
from tests.support.accounts import FakeLedger, die, entry

FILE_BYTES = 1_000
"""A file holds two rows or three."""


class Journals(RuleBasedStateMachine):
    """Three processes of a node at the most, and one database.

    owed: by id, what has to be on the ledger in the end, as far as it is decided.
    """

    running = Bundle("running")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp())
        self.journals: dict[int, Journal] = {}
        self.open_rows: dict[str, tuple[int, LedgerEntry]] = {}
        self.owed: dict[str, LedgerEntry] = {}
        self.ledger = FakeLedger()
        self.number = 0
        self.disk_fails = False

    def journal(self, process: int) -> Journal:
        if process not in self.journals:
            self.journals[process] = Journal(self.directory, reached=self.reached, file_bytes=FILE_BYTES)
        return self.journals[process]

    def reached(self, point: str) -> None:
        if self.disk_fails and point.endswith(".asked"):
            raise OSError(errno.EIO, "disk I/O error")

    @rule(process=st.integers(0, 2), requests=st.integers(1, 5), written=st.booleans())
    def refuse(self, process: int, requests: int, written: bool) -> None:
        """While the disk fails, whether their word comes before they are refused or after."""
        journal = self.journal(process)

        async def ask() -> None:
            self.number += 1
            try:
                opened = journal.open(entry(self.number))
                if written:
                    await opened.written
            except JournalError:
                pass
            journal.withdraw(entry(self.number))

        async def run() -> None:
            for _ in range(requests):
                await ask()
            await journal._writer.rests()
            assert journal._pending == []
            assert journal._rows.keys() == {id for id, (of, _) in self.open_rows.items() if of == process}

        self.disk_fails = True
        self.loop.run_until_complete(run())
        self.disk_fails = False
        self.loop.run_until_complete(self.well_again(journal))

    @staticmethod
    async def well_again(journal: Journal) -> None:
        journal._try_again()
        await journal._writer.rests()

    @rule(target=running, process=st.integers(0, 2))
    def open(self, process: int) -> str:
        self.number += 1
        opened = entry(self.number)
        journal = self.journal(process)

        async def run() -> None:
            await journal.open(opened).written

        self.loop.run_until_complete(run())
        self.open_rows[opened.id] = process, opened
        return opened.id

    @rule(id=running, tokens=st.integers(1, 100))
    def note(self, id: str, tokens: int) -> None:
        if id in self.open_rows:
            process, _ = self.open_rows[id]
            noted = entry(int(id), completion_tokens=tokens)

            async def run() -> None:
                journal = self.journal(process)
                journal.note(noted)
                journal._wake()
                await journal._writer.rests()

            self.loop.run_until_complete(run())
            self.open_rows[id] = process, noted

    @rule(id=consumes(running), tokens=st.integers(0, 100), withdrawn=st.booleans(), fails=st.booleans())
    def end(self, id: str, tokens: int, withdrawn: bool, fails: bool) -> None:
        if id in self.open_rows:
            process, _ = self.open_rows.pop(id)
            closed = entry(int(id), kind="completed", completion_tokens=tokens)

            async def run() -> None:
                journal = self.journal(process)
                written = journal.withdraw(closed) if withdrawn else journal.close(closed)
                if fails:
                    await journal._writer.rests()
                    assert not written.done()
                    self.disk_fails = False
                    await self.well_again(journal)
                await written

            self.disk_fails = fails
            self.loop.run_until_complete(run())
            if not withdrawn:
                self.owed[id] = closed

    @rule(process=st.integers(0, 2), most=st.integers(1, 3))
    def drain(self, process: int, most: int) -> None:
        try:
            self.loop.run_until_complete(self.journal(process).drain(self.ledger.book, most))
        except StoreUnavailableError:
            assert self.ledger.away or self.ledger.late

    @rule(away=st.booleans(), late=st.booleans())
    def database(self, away: bool, late: bool) -> None:
        self.ledger.away, self.ledger.late = away, late

    @rule(process=st.integers(0, 2))
    def adopt(self, process: int) -> None:
        self.loop.run_until_complete(self.journal(process).adopt())

    @rule(process=st.integers(0, 2), target=running)
    def kill(self, process: int) -> object:
        """With all that it had adopted."""
        if (journal := self.journals.pop(process, None)) is not None:
            self.loop.run_until_complete(die(journal))
            self._orphaned(process)
        return multiple()

    @rule(process=st.integers(0, 2))
    def stop(self, process: int) -> None:
        if (journal := self.journals.pop(process, None)) is not None:
            self.loop.run_until_complete(journal.stop())
            self._orphaned(process)

    def _orphaned(self, process: int) -> None:
        for id, (of, last_word) in list(self.open_rows.items()):
            if of == process:
                del self.open_rows[id]
                self.owed[id] = msgspec.structs.replace(last_word, estimated=True)

    @invariant()
    def nothing_is_booked_that_is_not_owed(self) -> None:
        assert self.ledger.entries.items() <= self.owed.items()

    def teardown(self) -> None:
        self.ledger.away = self.ledger.late = False
        for process in list(self.journals):
            self.kill(process)
        last = self.journal(0)
        self.loop.run_until_complete(last.adopt())
        while self.loop.run_until_complete(last.drain(self.ledger.book)):
            pass
        self.loop.run_until_complete(last.stop())
        assert self.ledger.entries == self.owed
        assert list(self.directory.iterdir()) == []
        self.loop.close()
        shutil.rmtree(self.directory)


TestJournals = Journals.TestCase
TestJournals.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
