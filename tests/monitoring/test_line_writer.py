"""The log never holds up whoever writes it: a reader that stands still, a full disk, a pipe that nobody reads."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from monitoring import line_writer, logs
from monitoring.line_writer import LineWriter, _WatchedFile, to_file, to_stream
from tests.support.log_lines import captured
from tests.support.waiting import wait_until


def notice(count: int) -> str:
    return f"{count} dropped"


def test_the_log_says_how_many_of_its_lines_were_dropped() -> None:
    with captured() as lines:
        (handler,) = logging.getLogger().handlers
        assert isinstance(handler, logs.Queued)
        handler._writer.put(lines.stream.write, handler._notice(7))
        (line,) = lines.all("log.dropped")
    assert (line["lines"], line["level"], line["message"]) == (7, "warning", "the log could not be written")
    assert line["process"] == "test"


@pytest.mark.parametrize(("format", "on_a_terminal", "readable"), [
    ("json", True, False), ("text", False, True), ("auto", False, False), ("auto", True, True),
])  # fmt: skip
def test_lines_are_for_people_where_one_looks_or_it_was_said(
    format: logs.LogFormat, on_a_terminal: bool, readable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with captured() as lines:
        monkeypatch.setattr(lines.stream, "isatty", lambda: on_a_terminal, raising=False)
        logs.configure("info", format, stream=lines.stream, process="test")
        logs.event("engine.stopped")
        text = lines.text
    assert ("engine.stopped" in text, text.startswith("{")) == (True, not readable)


def test_lines_are_written_in_order() -> None:
    written: list[str] = []
    writer = LineWriter(notice)
    for number in range(1000):
        writer.put(written.append, str(number))
    assert writer.flush(30)
    assert written == [str(number) for number in range(1000)]


def test_a_reader_that_stands_still_costs_lines_and_no_time() -> None:
    may_go_on, stuck, written = threading.Event(), threading.Event(), []

    def write(text: str) -> None:
        stuck.set()
        may_go_on.wait()
        written.append(text)

    writer = LineWriter(notice, capacity=1000)
    writer.put(write, "first")
    stuck.wait()
    for _ in range(500):
        writer.put(write, "x" * 100)  # one that waited for the reader would never return
    assert not writer.flush(0.01)
    may_go_on.set()
    assert writer.flush(30)
    writer.put(write, "last")
    assert writer.flush(30)
    assert written == ["first", "490 dropped", *["x" * 100] * 10, "last"]


def test_a_line_longer_than_the_queue_is_written_alone() -> None:
    written: list[str] = []
    writer = LineWriter(notice, capacity=10)
    writer.put(written.append, "x" * 50)
    assert writer.flush(30)
    assert written == ["x" * 50]


def test_a_full_disk_costs_lines_until_there_is_room() -> None:
    full, written = [True], []

    def write(text: str) -> None:
        if full:
            raise OSError(28, "No space left on device")
        written.append(text)

    writer = LineWriter(notice)
    for number in range(3):
        writer.put(write, str(number))
    assert writer.flush(30)
    full.clear()
    writer.put(write, "again")
    assert writer.flush(30)
    assert written == ["3 dropped", "again"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_what_a_full_device_refused_is_not_tried_again() -> None:
    writer = LineWriter(notice)
    write = to_file(Path("/dev/full"))
    for _ in range(3):
        writer.put(write, "x")
    assert writer.flush(30)


def test_a_file_that_was_moved_away_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write = to_file(path)
    write("one\n")
    path.rename(tmp_path / "log.1")
    write("two\n")
    assert ((tmp_path / "log.1").read_text(), path.read_text()) == ("one\n", "two\n")


def test_a_pipe_that_may_not_be_written_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    asked: list[tuple[Path, int]] = []
    monkeypatch.setattr(line_writer.os, "access", lambda path, mode: bool(asked.append((path, mode))))
    with pytest.raises(PermissionError) as refused:
        to_file(pipe)
    assert (refused.value.errno, refused.value.filename) == (errno.EACCES, str(pipe))
    assert refused.value.strerror == os.strerror(errno.EACCES)
    assert asked == [(pipe, os.W_OK)]


def test_a_file_that_fails_is_opened_again_and_its_last_line_is_not_tried_twice(tmp_path: Path) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "no room")

    path = tmp_path / "log"
    write = _WatchedFile(path)
    write("one\n")
    opened = write._opened
    assert write._file is not None
    write._file.close()
    write._file = Full()
    with pytest.raises(OSError, match="no room"):
        write("two\n")
    assert write._file is None
    write("three ü\n")
    assert write._opened == opened, "it was not moved"
    write.close()
    write.close()
    assert path.read_bytes() == "one\nthree ü\n".encode()


def test_a_file_that_another_has_the_name_of_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write = to_file(path)
    write("one\n")
    path.rename(tmp_path / "log.1")
    path.write_text("new\n")
    write("two\n")
    assert ((tmp_path / "log.1").read_text(), path.read_text()) == ("one\n", "new\ntwo\n")


class WithoutFile(io.StringIO):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def fileno(self) -> int:
        raise self._error


def test_a_stream_is_written_at_once_by_a_file_of_its_own_where_it_has_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("w") as stream:
        write = to_stream(stream)
        write("ü\udc80\n")
        assert path.read_bytes() == "ü?\n".encode(), "what is no text must not end the log"
        write.close()
        assert not stream.closed
        with pytest.raises(ValueError, match="closed"):
            write("late")
    for error in (OSError("no file"), ValueError("closed")):
        without = WithoutFile(error)
        write = to_stream(without)
        write("two\n")
        write.close()
        assert (without.getvalue(), without.closed) == ("two\n", False)


def test_what_fits_to_the_last_character_is_kept() -> None:
    """What waits counts whole, and no more once it is written."""
    written: list[str] = []
    begun, may_go_on = threading.Event(), threading.Event()

    def write(text: str) -> None:
        begun.set()
        may_go_on.wait()
        written.append(text)

    writer = LineWriter(notice, capacity=10)
    writer.put(write, "first")
    assert writer._thread is not None
    assert writer._thread.daemon, "a reader that stands still keeps no process"
    begun.wait()
    for text in ("1234567", "890", "x", "y"):
        writer.put(write, text)
    may_go_on.set()
    assert writer.flush(30)
    assert written == ["first", "2 dropped", "1234567", "890"]
    assert (writer._characters, writer._unwritten, writer._dropped) == (0, 0, 0)


def test_how_many_were_dropped_is_not_forgotten_where_that_cannot_be_written() -> None:
    written: list[str] = []
    failures = [True, True, True, True]

    def write(text: str) -> None:
        if failures:
            failures.pop()
            raise ValueError("closed")
        written.append(text)

    writer = LineWriter(notice)
    for number in range(5):
        writer.put(write, str(number))
        assert writer.flush(30)
    assert written == ["4 dropped", "4"]


def test_waiting_ends_in_time_or_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    now = iter([100.0, 100.25, 200.0, 207.0])
    monkeypatch.setattr(line_writer, "time", SimpleNamespace(monotonic=lambda: next(now)))
    writer = LineWriter(notice)

    def wait_for(ready: Callable[[], bool], seconds: float) -> bool:
        waited.append(seconds)
        return ready()

    monkeypatch.setattr(writer._changed, "wait_for", wait_for)
    assert writer.flush()
    writer._unwritten = 1
    assert not writer.flush(5.0)
    assert waited == [line_writer.FLUSH_S - 0.25, 0.0]


def test_a_pipe_is_written_to_once_somebody_reads_it(tmp_path: Path) -> None:
    """A container's log may be one. Opening it waits for its reader: whoever configures the log does not."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with captured():
        logs.configure("info", "json", pipe, process="test")
        logs.event("early")
        logs.flush()  # a second, in vain
        with pipe.open() as reader:
            assert json.loads(reader.readline())["event"] == "early"


def test_a_file_that_cannot_be_opened_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        logs.configure("info", "json", tmp_path / "missing" / "log", process="test")


def test_a_log_that_is_configured_anew_gives_up_its_thread_and_its_file(tmp_path: Path) -> None:
    """What it was told before is written first."""
    path = tmp_path / "log"
    with path.open("a") as stream, captured():
        before, opened = _log_threads(), _opened(path)  # what an earlier test has closed may be ending still
        for number in range(5):
            logs.configure("info", "json", stream=stream, process="test")
            logs.event("engine.stopped", number=number)
        for number in range(5, 10):
            logs.configure("info", "json", path, process="test")
            logs.event("engine.stopped", number=number)
        wait_until(lambda: (len(_log_threads() - before), _opened(path)) == (1, opened + 1))
        assert sorted(json.loads(line)["number"] for line in path.read_text().splitlines()) == [*range(10)]
    wait_until(lambda: (len(_log_threads() - before), _opened(path)) == (0, 0))


def _log_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "log"}


def _opened(path: Path) -> int:
    """Descriptors of this process on the file."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed by now
            found += entry.samefile(path)
    return found


def test_who_says_something_after_the_end_is_heard(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer, sink = LineWriter(notice), to_file(path)
    writer.put(sink, "before\n")
    writer.close(sink)
    writer.put(sink, "after\n")
    assert writer.flush(30)
    assert path.read_text() == "before\nafter\n"


def test_a_forked_process_writes_with_a_thread_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer, write = LineWriter(notice), to_file(path)
    writer.put(write, "parent\n")
    assert writer.flush(30)
    child = os.fork()
    if not child:
        writer.put(write, "child\n")
        os._exit(0 if writer.flush(30) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert path.read_text() == "parent\nchild\n"
