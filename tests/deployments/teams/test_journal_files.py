"""A journal over several files, its own and those of the dead: what is read from which, and what is told of them."""

from __future__ import annotations

import asyncio
import errno
import gc
import threading
from pathlib import Path

import pytest

from deployments.teams.journal import AGAIN_S, MOST_AT_ONCE, NOTED_S, Journal, JournalError
from deployments.teams.journal_file import Waiting
from tests.support.accounts import FakeLedger, die, entry
from tests.support.journals import Begin
from tests.support.log_lines import captured
from tests.support.waiting import eventually


async def used(journal: Journal, *numbers: int) -> None:
    for number in numbers:
        await journal.open(entry(number)).written
        await journal.close(entry(number))


async def test_what_the_dead_left_is_booked_first_and_no_more_at_once_than_asked_for(begin: Begin) -> None:
    living, ledger = await begin(), FakeLedger()
    await used(living, 0)
    for first in (10, 20):
        dead = await begin()
        await used(dead, first, first + 1, first + 2)
        await die(dead)
    assert await living.adopt() == 2
    assert await living.waiting() == Waiting(7, 0.0)
    assert await living.drain(ledger.book, most=4) == 4
    assert len(ledger.entries) == 4
    assert "00000000" not in ledger.entries
    assert (len(living._others), (await living.waiting()).rows) == (1, 3)
    assert await living.drain(ledger.book, most=4) == 3
    assert (len(ledger.entries), living._others) == (7, [])
    assert await living.waiting() == Waiting(0, None)
    assert await living.drain(ledger.book) == 0


async def test_a_batch_is_of_five_hundred(begin: Begin) -> None:
    journal, ledger = await begin(), FakeLedger()
    opened = [journal.open(entry(number)).written for number in range(MOST_AT_ONCE + 1)]
    await asyncio.gather(*opened)
    await asyncio.gather(*(journal.close(entry(number)) for number in range(MOST_AT_ONCE + 1)))
    assert [await journal.drain(ledger.book) for _ in range(3)] == [MOST_AT_ONCE, 1, 0]


async def test_since_when_the_oldest_waits_is_of_all_files(begin: Begin) -> None:
    living, dead = await begin(), await begin()
    await dead.open(entry(1)).written
    await dead.close(entry(1, ended_at=50.0))
    await die(dead)
    await living.adopt()
    await living.open(entry(2)).written
    await living.close(entry(2, ended_at=40.0))
    assert await living.waiting() == Waiting(2, 40.0)


async def test_what_the_dead_left_takes_no_room_from_the_living(begin: Begin) -> None:
    dead, living = await begin(), await begin(most_bytes=600)
    await used(dead, *range(10))
    await die(dead)
    await living.adopt()
    assert sum(file.size for file in living._files) > 600
    await living.open(entry(11)).written
    with captured() as lines:
        for number in range(12, 20):
            try:
                await living.open(entry(number)).written
            except JournalError:
                break
        (line,) = lines.all("usage.journal_failed")
    assert (line["level"], line["message"]) == ("error", "The journal has reached 600 bytes.")
    assert line["path"] == str(living._directory)


async def test_a_file_that_is_full_is_followed_by_another_and_goes_when_it_is_booked(
    begin: Begin, tmp_path: Path
) -> None:
    journal, ledger = await begin(file_bytes=500), FakeLedger()
    await journal.open(entry(0)).written
    first = journal._own
    number = 0
    while journal._own is first:
        number += 1
        await used(journal, number)
    assert first.size >= 500
    assert [file.path.exists() for file in journal._files] == [True, True]
    await journal.drain(ledger.book)
    assert first in journal._files, "a row is open in it"
    await journal.close(entry(0))
    await journal.drain(ledger.book)
    assert (journal._files, first.path.exists()) == ([journal._own], False)
    assert len(ledger.entries) == number + 1


async def test_who_is_adopted_is_told_and_how_much_of_it_is_a_guess(begin: Begin) -> None:
    dead, living = await begin(), await begin()
    await used(dead, 1, 2)
    await dead.open(entry(3)).written
    path = dead._files[0].path
    await die(dead)
    with captured() as lines:
        assert await living.adopt() == 1
        (line,) = lines.all("usage.journal_adopted")
    assert (line["rows"], line["estimated"], line["path"]) == (3, 1, str(path))


async def test_what_is_damaged_is_told_with_where_it_is_kept(begin: Begin) -> None:
    dead, living = await begin(), await begin()
    await used(dead, 1)
    path = dead._files[0].path
    await die(dead)
    path.write_bytes(b"no line\n" + path.read_bytes())
    with captured() as lines:
        await living.adopt()
        (line,) = lines.all("usage.journal_damaged")
    assert (line["level"], line["path"]) == ("error", str(path.with_suffix(".damaged")))
    assert "not what was written" in line["message"]


async def test_what_cannot_be_adopted_now_is_told_with_its_place(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    dead, living = await begin(), await begin()
    await dead.open(entry(1)).written
    path = dead._files[0].path
    await die(dead)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "the disk is full")

    with monkeypatch.context() as patch, captured() as lines:
        patch.setattr("deployments.teams.journal_file.os.pwrite", full)
        assert await living.adopt() == 0
        (line,) = lines.all("usage.journal_damaged")
    assert (line["level"], line["path"]) == ("error", str(path))
    assert "the disk is full" in line["message"]


async def test_a_disk_of_ones_own_that_fails_is_whoever_drains_its(begin: Begin) -> None:
    journal, ledger = await begin(), FakeLedger()
    await used(journal, 1)

    def fails(most: int) -> list[object]:
        raise OSError("the disk is gone")

    closed = journal._own.closed
    journal._own.closed = fails  # type: ignore[method-assign, assignment]
    with pytest.raises(OSError, match="the disk is gone"):
        await journal.drain(ledger.book)
    journal._own.closed = closed  # type: ignore[method-assign]
    assert await journal.drain(ledger.book) == 1


async def test_when_notes_are_written_and_a_disk_is_tried_again(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = False

    def reached(point: str) -> None:
        if broken and point.endswith(".asked"):
            raise OSError(errno.EIO, "disk I/O error")

    journal, loop = await begin(reached=reached), asyncio.get_running_loop()
    later: list[float] = []
    call_later = loop.call_later

    def note(seconds: float, *rest: object) -> asyncio.TimerHandle:
        later.append(seconds)
        return call_later(3600.0, *rest)  # type: ignore[arg-type]

    await journal.open(entry(1)).written
    monkeypatch.setattr(loop, "call_later", note)
    for tokens in (3, 4):
        journal.note(entry(1, completion_tokens=tokens))
    assert later == [NOTED_S], "all that is noted in a second is written at once"
    broken = True
    with pytest.raises(JournalError, match=r"cannot be written: .*disk I/O error"):
        await journal.open(entry(2)).written
    with pytest.raises(JournalError, match="disk I/O error"):
        journal.open(entry(3))
    assert later == [NOTED_S, AGAIN_S]
    assert journal._own.open_rows == 1, "what could not begin is not in it"
    broken = False
    journal._try_again()
    await journal.open(entry(4)).written
    assert journal._timer is None


async def test_what_does_not_reach_the_disk_is_told(begin: Begin) -> None:
    def reached(point: str) -> None:
        if point == "sync.flushed":
            raise OSError(errno.EIO, "disk I/O error")

    journal = await begin(reached=reached)
    with captured() as lines:
        opened = journal.open(entry(1))
        await opened.written
        with pytest.raises(JournalError, match=r"does not reach the disk: .*disk I/O error"):
            await opened.on_disk
        (line,) = lines.all("usage.journal_failed")
    assert line["message"].startswith("The journal does not reach the disk: ")
    assert await journal.close(entry(1)) is None  # type: ignore[func-returns-value]


async def test_who_does_not_ask_whether_it_reached_the_disk_is_not_told_behind_their_back(begin: Begin) -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    fails = [True]

    def reached(point: str) -> None:
        if point == "sync.flushed" and fails:
            fails.clear()
            raise OSError(errno.EIO, "disk I/O error")

    journal = await begin(reached=reached)
    opened = journal.open(entry(1))
    await opened.written
    assert {"journal", "journal-flush"} <= {thread.name for thread in threading.enumerate()}
    await journal._flusher.rests()
    await eventually(opened.on_disk.done)
    del opened
    await journal.open(entry(2)).on_disk  # its thread has forgotten the first one by now
    gc.collect()
    assert (told, fails) == ([], [])


async def test_what_was_refused_is_counted_on(begin: Begin) -> None:
    journal, ledger = await begin(), FakeLedger()
    for number, cost in ((1, FakeLedger.LARGEST), (2, FakeLedger.LARGEST + 1), (3, FakeLedger.LARGEST + 1), (4, 1)):
        await journal.open(entry(number)).written
        await journal.close(entry(number, cost=cost))
        if number == 2:
            assert await journal.drain(ledger.book) == 2
    assert (await journal.drain(ledger.book), journal.refused) == (2, 2)
    assert sorted(ledger.entries) == ["00000001", "00000004"]


async def test_stopping_twice_is_stopping_once(begin: Begin, tmp_path: Path) -> None:
    journal, following, ledger = await begin(), await begin(), FakeLedger()
    await used(journal, 1)
    await journal.stop()
    await journal.stop()
    assert [path.suffix for path in sorted((tmp_path / "journal").iterdir())] == [".lock", ".log"]
    await following.adopt()
    await following.drain(ledger.book)
    assert list(ledger.entries) == ["00000001"]
