"""The journal keeps what was used, on the disk, until it is booked."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from deployments.teams.journal import Journal, JournalError
from deployments.teams.journal_file import Waiting
from deployments.teams.store_errors import StoreUnavailableError
from deployments.teams.unbooked import SEEN_S, Unbooked
from tests.support.accounts import FakeLedger, die, entry
from tests.support.journals import Begin
from tests.support.waiting import eventually, settle


async def test_nothing_is_on_the_disk_before_there_is_a_row(begin: Begin, tmp_path: Path) -> None:
    journal, ledger = await begin(), FakeLedger()
    await journal.adopt()
    assert await journal.drain(ledger.book) == 0
    assert await journal.waiting() == Waiting(0, None)
    await journal.stop()
    assert os.listdir(tmp_path) == []
    assert ledger.calls == 0


async def test_where_no_file_can_be_made_nobody_begins(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("in the way")
    journal = Journal(tmp_path / "journal")
    with pytest.raises(JournalError, match="File exists"):
        await journal.open(entry(1)).written
    await journal.stop()


async def test_a_row_is_booked_once_it_is_closed(begin: Begin) -> None:
    journal, ledger = await begin(), FakeLedger()
    await journal.open(entry(1)).written
    assert await journal.drain(ledger.book) == 0
    closed = entry(1, kind="completed", completion_tokens=5, ended_at=3.0)
    await journal.close(closed)
    assert await journal.waiting() == Waiting(1, 3.0)
    assert await journal.drain(ledger.book) == 1
    assert ledger.entries == {closed.id: closed}
    assert (await journal.waiting()).rows == 0


async def test_what_is_withdrawn_is_never_booked(begin: Begin) -> None:
    journal, ledger = await begin(), FakeLedger()
    opening = journal.open(entry(1)).written
    opening.cancel()
    await journal.withdraw(entry(1))
    assert await journal.drain(ledger.book) == 0
    await journal.stop()


async def test_files_are_for_this_user_only(begin: Begin, tmp_path: Path) -> None:
    journal = await begin()
    await journal.open(entry(1)).written
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "journal").iterdir()}
    assert len(modes) >= 2
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "journal").stat().st_mode) == 0o700


async def test_requests_at_once_are_written_together(begin: Begin) -> None:
    commits: list[str] = []
    journal = await begin(reached=commits.append)
    await asyncio.gather(*(journal.open(entry(number)).on_disk for number in range(100)))
    assert commits.count("open.written") <= 2


async def test_an_empty_journal_leaves_nothing(begin: Begin, tmp_path: Path) -> None:
    journal, ledger = await begin(), FakeLedger()
    await journal.open(entry(1)).written
    await journal.close(entry(1))
    await journal.drain(ledger.book)
    await journal.stop()
    assert list((tmp_path / "journal").iterdir()) == []


async def test_the_dead_are_adopted_and_the_living_are_not(begin: Begin, tmp_path: Path) -> None:
    dead, other, living = await begin(), await begin(), await begin()
    await dead.open(entry(1)).written
    await dead.open(entry(2)).written
    await dead.close(entry(2, kind="completed", completion_tokens=7))
    await other.open(entry(3)).written
    await die(dead)
    assert await living.adopt() == 1
    assert await living.adopt() == 0
    ledger = FakeLedger()
    assert await living.drain(ledger.book) == 2
    assert ledger.entries == {
        "00000001": entry(1, estimated=True),
        "00000002": entry(2, kind="completed", completion_tokens=7),
    }
    assert [path.stem for path in (tmp_path / "journal").glob("*.lock")] == [other._files[0].path.stem]


async def test_the_estimate_is_the_last_word(begin: Begin) -> None:
    dead, living, ledger = await begin(), await begin(), FakeLedger()
    await dead.open(entry(1)).written
    for tokens in (3, 8):
        dead.note(entry(1, completion_tokens=tokens, ended_at=9.0))
    await dead.open(entry(2)).written  # notes go with whatever is written next
    await die(dead)
    await living.adopt()
    await living.drain(ledger.book)
    assert ledger.entries["00000001"] == entry(1, completion_tokens=8, ended_at=9.0, estimated=True)


async def test_a_note_alone_is_written_soon(begin: Begin) -> None:
    reached: list[str] = []
    journal = await begin(reached=reached.append)
    await journal.open(entry(1)).written
    journal.note(entry(1, completion_tokens=3))
    await eventually(lambda: "note.written" in reached)


async def test_what_is_closed_needs_no_note(begin: Begin) -> None:
    journal, ledger = await begin(), FakeLedger()
    await journal.open(entry(1)).written
    journal.note(entry(1, completion_tokens=3))
    await journal.close(entry(1, completion_tokens=4))
    await journal.drain(ledger.book)
    assert ledger.entries["00000001"].completion_tokens == 4


async def test_a_failing_disk_lets_nobody_begin_and_loses_nothing(begin: Begin) -> None:
    broken = False

    def reached(point: str) -> None:
        if broken and point.endswith(".asked"):
            raise OSError(errno.EIO, "disk I/O error")

    journal, ledger = await begin(reached=reached), FakeLedger()
    await journal.open(entry(1)).written
    broken = True
    closed = journal.close(entry(1, completion_tokens=5))
    with pytest.raises(JournalError, match="disk I/O error"):
        await journal.open(entry(2)).written
    assert not closed.done()
    broken = False
    await closed
    assert await journal.drain(ledger.book) == 1
    assert ledger.entries["00000001"].completion_tokens == 5


async def test_beyond_its_size_nothing_begins_and_what_runs_is_closed(begin: Begin) -> None:
    journal, ledger = await begin(most_bytes=64 * 1024), FakeLedger()
    number = 0
    while not journal._files or journal._files[0].size < 64 * 1024:
        number += 1
        await journal.open(entry(number)).written
    with pytest.raises(JournalError, match="65536 bytes"):
        journal.open(entry(number + 1))
    for opened in range(1, number + 1):
        last = journal.close(entry(opened, kind="completed"))
    await last
    while await journal.drain(ledger.book):
        pass
    assert len(ledger.entries) == number
    await journal.open(entry(number + 1)).written


async def test_stopping_writes_what_was_said_last(begin: Begin) -> None:
    journal, living, ledger = await begin(), await begin(), FakeLedger()
    await journal.open(entry(1)).written
    journal.close(entry(1, kind="completed", completion_tokens=9))
    await journal.stop()
    await living.adopt()
    await living.drain(ledger.book)
    assert ledger.entries["00000001"] == entry(1, kind="completed", completion_tokens=9)


async def test_booked_and_not_known_to_be_is_booked_once(begin: Begin) -> None:
    journal, ledger = await begin(), FakeLedger()
    await journal.open(entry(1)).written
    await journal.close(entry(1))
    ledger.late = True
    with pytest.raises(Exception, match="in time"):
        await journal.drain(ledger.book)
    ledger.late = False
    assert await journal.drain(ledger.book) == 1
    assert len(ledger.entries) == 1


async def test_the_event_loop_does_not_wait_for_the_disk(begin: Begin) -> None:
    hold = threading.Event()

    def reached(point: str) -> None:
        assert hold.wait(60)

    journal = await begin(reached=reached)
    opening = journal.open(entry(1)).written
    await settle()
    assert not opening.done()
    hold.set()
    await opening


async def test_a_journal_that_cannot_be_opened_now_is_left_for_later(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, living, ledger = await begin(), await begin(), FakeLedger()
    await dead.open(entry(1)).written
    await die(dead)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("deployments.teams.journal_file.os.pwrite", full)
        assert await living.adopt() == 0
    assert await living.adopt() == 1
    assert await living.drain(ledger.book) == 1


async def test_attempts_to_make_a_journal_leave_nothing_open(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "the disk is full")

    journal = await begin()
    with monkeypatch.context() as patch:
        patch.setattr("deployments.teams.journal_file.os.pwrite", full)
        with pytest.raises(JournalError):
            await journal.open(entry(0)).written
        before = len(os.listdir("/proc/self/fd"))
        for number in range(5):
            with pytest.raises(JournalError):
                await journal.open(entry(number)).written
            journal._try_again()
        assert len(os.listdir("/proc/self/fd")) == before
    await journal.open(entry(6)).written


async def test_one_of_the_dead_that_cannot_be_read_now_holds_up_nobody(begin: Begin) -> None:
    dead, living, ledger = await begin(), await begin(), FakeLedger()
    await dead.open(entry(1)).written
    await die(dead)
    await living.adopt()
    await living.open(entry(2)).written
    await living.close(entry(2))

    def closed(most: int) -> None:
        raise OSError(errno.EIO, "disk I/O error")

    living._others[0].closed = closed  # type: ignore[method-assign, assignment]
    assert await living.drain(ledger.book) == 1
    assert ledger.entries.keys() == {"00000002"}
    assert await living.adopt() == 1
    assert await living.drain(ledger.book) == 1
    assert ledger.entries.keys() == {"00000001", "00000002"}


async def test_what_fails_is_told_once(begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    broken = True

    def reached(point: str) -> None:
        if broken and point.endswith(".asked"):
            raise OSError(errno.EIO, "disk I/O error")

    journal = await begin(reached=reached)
    for round in (1, 2):
        for number in range(3):
            with pytest.raises(JournalError):
                await journal.open(entry(number)).written
        assert sum("disk I/O error" in record.getMessage() for record in caplog.records) == round
        broken = False
        journal._try_again()
        await journal.open(entry(10 * round)).written
        broken = True


async def test_while_the_disk_fails_requests_cost_nothing_and_leave_nothing(begin: Begin) -> None:
    attempts: list[str] = []
    broken = False

    def reached(point: str) -> None:
        if broken and point.endswith(".asked"):
            attempts.append(point)
            raise OSError(errno.ENOSPC, "the disk is full")

    journal, ledger = await begin(reached=reached), FakeLedger()
    await journal.open(entry(0)).written
    broken = True
    closed = journal.close(entry(0, completion_tokens=5))
    for number in range(1, 200):
        with pytest.raises(JournalError, match="disk is full"):
            await journal.open(entry(number)).written
        await journal.withdraw(entry(number))
    assert len(journal._pending) == 1
    assert len(attempts) < 20  # two a second, however many ask
    broken = False
    await closed
    await journal.open(entry(200)).written
    await journal.drain(ledger.book)
    assert ledger.entries == {"00000000": entry(0, completion_tokens=5)}


async def test_of_a_row_that_was_not_opened_nothing_waits(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("in the way")
    journal = await begin()
    together = [journal.open(entry(number)) for number in range(3)]
    withdrawn = journal.withdraw(entry(0))
    for opened in together:
        with pytest.raises(JournalError):
            await opened.written
    await withdrawn
    await journal.withdraw(entry(1))
    assert (journal._pending, journal._rows) == ([], {})


async def test_it_says_what_is_not_booked_yet(begin: Begin) -> None:
    now = 0.0
    unbooked = Unbooked(lambda: now)
    journal, dead, ledger = await begin(unbooked=unbooked), await begin(), FakeLedger()
    for number in (1, 2, 3, 4):
        await journal.open(entry(number, cost=0)).written
    for one in (entry(1, cost=10), entry(1, cost=10), entry(2, cost=20), entry(9, cost=90)):
        await journal.close(one)  # the first one twice, the last one was never opened
    await journal.withdraw(entry(3, cost=30))
    await dead.open(entry(5)).written
    await die(dead)
    await journal.adopt()
    assert unbooked.costs() == {"team:team_1": {0: 30}}
    ledger.away = True
    with pytest.raises(StoreUnavailableError):
        await journal.drain(ledger.book)
    assert unbooked.costs() == {"team:team_1": {0: 30}}
    ledger.away = False
    await journal.drain(ledger.book)
    now = SEEN_S
    await journal.close(entry(4, cost=40))
    await journal.drain(ledger.book)
    assert unbooked.costs() == {"team:team_1": {0: 40}}
