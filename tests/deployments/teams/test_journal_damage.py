"""Journals that cannot be read, and rows that no database takes: told, kept for people to look at, in nobody's way."""

from __future__ import annotations

import os
from pathlib import Path

from deployments.teams.journal_file import Waiting
from tests.support.accounts import FakeLedger, die, entry
from tests.support.journals import Begin
from tests.support.log_lines import captured


async def test_a_damaged_journal_is_set_aside(begin: Begin) -> None:
    dead, living, ledger = await begin(), await begin(), FakeLedger()
    await dead.open(entry(1)).written
    path = dead._files[0].path
    await dead.stop()
    path.write_bytes(b"This is no journal.\n" * 400)
    assert await living.adopt() == 0
    assert await living.drain(ledger.book) == 0
    assert path.with_suffix(".damaged").exists()
    assert not path.exists()
    assert not path.with_suffix(".lock").exists()


async def test_of_a_damaged_journal_all_is_booked_that_can_be_read(begin: Begin) -> None:
    dead, living, ledger = await begin(), await begin(), FakeLedger()
    for number in (1, 2, 3):
        await dead.open(entry(number)).written
        await dead.close(entry(number, completion_tokens=number))
    path = dead._files[0].path
    await dead.stop()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"m"', b'"n"')
    path.write_bytes(b"".join(lines))
    await living.adopt()
    await living.drain(ledger.book)
    assert {one.completion_tokens: one.estimated for one in ledger.entries.values()} == {1: False, 0: True, 3: False}
    assert path.with_suffix(".damaged").read_bytes().startswith(b"".join(lines))
    assert await living.waiting() == Waiting(0, None)


async def test_what_cannot_be_read_of_a_dead_process_is_told_with_its_place(begin: Begin) -> None:
    dead, living, ledger = await begin(), await begin(), FakeLedger()
    await dead.open(entry(1)).written
    await dead.close(entry(1))
    path = dead._files[0].path
    await die(dead)
    await living.adopt()

    def fails(most: int) -> list[object]:
        raise OSError("the disk is gone")

    (file,) = living._others
    file.closed = fails  # type: ignore[method-assign, assignment]
    with captured() as lines:
        assert await living.drain(ledger.book) == 0
        (line,) = lines.all("usage.journal_damaged")
    assert (line["level"], line["message"], line["path"]) == ("error", "the disk is gone", str(path))
    assert (living._others, path.exists()) == ([], True)


async def test_rows_that_the_database_refuses_are_told_with_their_place(begin: Begin, tmp_path: Path) -> None:
    journal, ledger = await begin(), FakeLedger()
    for number, cost in ((1, 5), (2, FakeLedger.LARGEST + 1), (3, 5)):
        await journal.open(entry(number)).written
        await journal.close(entry(number, cost=cost))
    with captured() as lines:
        await journal.drain(ledger.book)
        (line,) = lines.all("usage.entries_refused")
    assert sorted(ledger.entries) == ["00000001", "00000003"]
    assert (line["level"], line["message"], line["rows"]) == ("error", "00000002", 1)
    assert line["path"] == str(tmp_path / "journal" / "refused.jsonl")
    assert os.stat(line["path"]).st_size > 0
