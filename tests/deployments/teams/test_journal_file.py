"""A file of the journal: what is in it whenever its process or its machine ends."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
import zlib
from itertools import accumulate
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.teams.journal_file import JournalFile, Waiting, _locked, journals, keep_refused
from deployments.teams.journal_lines import Booked, Change, Kind, from_line, to_line
from deployments.teams.records import LedgerEntry
from tests.support.accounts import entry

KINDS: tuple[Kind, ...] = ("open", "note", "close", "withdraw")


def test_a_line_is_what_this_version_has_written_or_nothing() -> None:
    for record in (Change("close", entry(1), 7.0), Booked(123)):
        line = to_line(record)
        assert from_line(line) == record
        assert from_line(line[:-1]) is None, "half a line"
        assert from_line(line[:-1] + b" ") is None
        assert from_line(line[:9] + b"x" + line[10:]) is None
        assert from_line((b"1" if line[:1] == b"0" else b"0") + line[1:]) is None
    for text in (b"", b"\n", b"0\n", b"00000000\n"):
        assert from_line(text) is None
    later = b'["of a later version",1]'
    assert from_line(b"%08x%b\n" % (zlib.crc32(later), later)) is None


def adopted(directory: Path, written: bytes) -> tuple[JournalFile, int]:
    path = directory / "usage-1-a.log"
    path.write_bytes(written)
    found = JournalFile.adopt(path, 0.0, lambda point: None)
    assert found is not None
    return found


def test_what_the_dead_had_open_ended_when_it_was_found(tmp_path: Path) -> None:
    path = tmp_path / "usage-1-a.log"
    path.write_bytes(to_line(Change("open", entry(1))))
    points: list[str] = []
    found = JournalFile.adopt(path, 77.0, points.append)
    assert found is not None
    assert (found[0].waiting(), points) == (Waiting(1, 77.0), ["close.asked", "close.written"])
    found[0].abandon()


def changes(draws: list[tuple[Kind, int]]) -> list[Change]:
    """Of rows that are there; each row has its last word once."""
    made: list[Change] = []
    open_rows: list[LedgerEntry] = []
    for number, (kind, chosen) in enumerate(draws):
        if kind == "open":
            row = entry(number)
            open_rows.append(row)
        elif open_rows:
            row = entry(int(open_rows[chosen % len(open_rows)].id), completion_tokens=number)
            if kind != "note":
                open_rows.pop(chosen % len(open_rows))
        else:
            continue
        made.append(Change(kind, row, row.ended_at))
    return made


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 5)), max_size=12).map(changes), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_wherever_it_is_cut_off_whole_lines_count(said: list[Change], kept: float) -> None:
    """As a killed process leaves it, or a machine that has lost power."""
    lines = [to_line(change) for change in said]
    written = b"".join(lines)[: round(kept * sum(map(len, lines)))]
    whole = sum(end <= len(written) for end in accumulate(map(len, lines)))
    rows: dict[str, tuple[int, bool]] = {}
    for change in said[:whole]:
        rows[change.entry.id] = change.entry.completion_tokens, change.kind != "close"
        if change.kind == "withdraw":
            del rows[change.entry.id]
    with tempfile.TemporaryDirectory() as directory:
        file, estimated = adopted(Path(directory), written)
        found = {one.id: (one.completion_tokens, one.estimated) for one in file.closed(100)}
        file.abandon()
    assert found == rows
    assert estimated == sum(is_open for _, is_open in rows.values())
    assert not file.damaged


def test_what_is_booked_is_read_once_by_whoever_comes_next(tmp_path: Path) -> None:
    said = [
        Change(kind, entry(number), float(number))
        for kind, number in (("open", 1), ("open", 2), ("close", 2), ("open", 3), ("close", 3), ("close", 1))
    ]  # type: ignore[arg-type]
    file, _ = adopted(tmp_path, b"".join(map(to_line, said)))
    assert [one.id for one in file.closed(2)] == ["00000002", "00000003"]
    file.booked(2)
    assert file.waiting() == (1, 1.0)
    file.abandon()
    file, estimated = adopted(tmp_path, file.path.read_bytes())
    assert [one.id for one in file.closed(2)] == ["00000001"]
    assert (file.closed_rows, estimated) == (1, 0)
    file.booked(1)
    assert (file.closed(2), file.waiting(), file.done) == ([], (0, None), True)
    file.end()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_half_of_it_has_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, whole = JournalFile(tmp_path), os.pwrite
    file.write([Change("open", entry(1))])
    with monkeypatch.context() as patch:
        patch.setattr(
            "deployments.teams.journal_file.os.pwrite", lambda fd, data, at: whole(fd, data[: len(data) // 2], at)
        )
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            file.write([Change("close", entry(1)), Change("open", entry(2))])
    assert file.path.read_bytes() == to_line(Change("open", entry(1)))
    file.write([Change("close", entry(1))])
    assert file.closed(9) == [entry(1)]
    file.abandon()


def test_where_the_disk_is_full_what_is_booked_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = JournalFile(tmp_path)
    file.write([Change("open", entry(1)), Change("close", entry(1))])

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "the disk is full")

    monkeypatch.setattr("deployments.teams.journal_file.os.pwrite", full)
    assert len(file.closed(9)) == 1
    file.booked(1)
    assert file.done
    file.end()
    assert list(tmp_path.iterdir()) == []


def test_what_the_database_refused_is_added_to_what_it_refused_before(tmp_path: Path) -> None:
    for entries in ([entry(1), entry(2)], [entry(3, cost=5)]):
        path = keep_refused(tmp_path, entries)
    assert path == tmp_path / "refused.jsonl"
    lines = path.read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=LedgerEntry) for line in lines] == [entry(1), entry(2), entry(3, cost=5)]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_lock_is_held_by_one_and_of_the_file_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever ends removes it: who comes in that moment has the lock of a file that nobody sees any more."""
    path = tmp_path / "usage-1-a.lock"
    before = len(os.listdir("/proc/self/fd"))
    held = _locked(path)
    assert held is not None
    assert path.stat().st_mode & 0o777 == 0o600
    assert _locked(path) is None
    os.close(held)
    flock, replaced = fcntl.flock, [False, True]

    def removed(descriptor: int, how: int) -> None:
        assert how == fcntl.LOCK_EX | fcntl.LOCK_NB
        flock(descriptor, how)
        path.unlink()
        if replaced.pop(0):
            path.touch()

    with monkeypatch.context() as patch:
        patch.setattr("deployments.teams.journal_file.fcntl.flock", removed)
        assert [_locked(path), _locked(path)] == [None, None]
    assert len(os.listdir("/proc/self/fd")) == before


def test_it_tells_where_each_write_stands(tmp_path: Path) -> None:
    points: list[str] = []
    file = JournalFile(tmp_path, points.append)
    file.sync()
    file.write([Change("open", entry(1)), Change("open", entry(2)), Change("close", entry(1))])
    file.closed(9)
    file.booked(1)
    assert points == [
        *("sync.flushed", "close.asked", "open.asked", "close.written", "open.written"),
        *("drain.booked", "drain.noted"),
    ]
    assert file.path.name.startswith(f"usage-{os.getpid()}-")
    assert file.path.suffix == ".log"
    assert file.path != JournalFile(tmp_path).path
    assert journals(tmp_path) == [file.path]
    assert (file.open_rows, file.adopted) == (0, False), "whoever has the file counts them"
    file.abandon()
    assert (file.lock, file.path.exists()) == (None, True)


def test_what_is_read_of_it_is_no_more_than_asked_for_and_from_where_it_is_booked(tmp_path: Path) -> None:
    file = JournalFile(tmp_path / "a" / "b")
    for number in range(5):
        file.write([Change("open", entry(number)), Change("close", entry(number), number + 0.5)])
    assert file.waiting() == Waiting(5, 0.5)
    assert [one.id for one in file.closed(1)] == ["00000000"]
    assert [one.id for one in file.closed(2)] == ["00000000", "00000001"], "it is not booked"
    file.booked(2)
    assert (file.closed_rows, file.waiting(), file.done) == (3, Waiting(3, 2.5), False)
    assert [one.id for one in file.closed(9)] == ["00000002", "00000003", "00000004"]
    file.booked(3)
    assert (file.waiting(), file.done) == (Waiting(0, None), True)
    file.open_rows = 1
    assert not file.done
    file.end()
    assert file.path.exists(), "a row is open in it"
