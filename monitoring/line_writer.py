"""Text written by a thread of their own: whoever has something to say never waits for whoever reads it."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

Write = Callable[[str], object]

CAPACITY = 4 << 20
"""Characters that wait at most, of all lines together."""
FLUSH_S = 1.0


class LineWriter:
    """Writes in the order in which it was told to; what does not fit its queue, or cannot be written, is counted.

    notice: makes the text that tells of `count` lines that were dropped; it is written with the next line that can be.
    """

    def __init__(self, notice: Callable[[int], str], capacity: int = CAPACITY) -> None:
        self._notice = notice
        self._capacity = capacity
        self._start()
        os.register_at_fork(after_in_child=self._start)  # the thread stays with the parent

    def _start(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Write, str]] = deque()
        self._characters = 0
        self._dropped = 0
        self._unwritten = 0
        self._thread: threading.Thread | None = None

    def put(self, write: Write, text: str) -> None:
        """Have `write(text)` called; drop the text where too much waits already."""
        with self._changed:
            if self._waiting and self._characters + len(text) > self._capacity:
                self._dropped += 1
                return
            self._waiting.append((write, text))
            self._characters += len(text)
            self._unwritten += 1
            if self._thread is None:
                # a daemon: a reader that stands still must not keep the process
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until everything is written, at most so long. Whether it was."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            return self._changed.wait_for(lambda: not self._unwritten, max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        changed = self._changed
        while True:
            with changed:
                changed.wait_for(lambda: bool(self._waiting))
                write, text = self._waiting.popleft()
                self._characters -= len(text)
                dropped, self._dropped = self._dropped, 0
            try:
                if dropped:
                    write(self._notice(dropped))
                    dropped = 0
                write(text)
            except (OSError, ValueError):  # no space, nobody reads, it was closed: perhaps the next one goes
                dropped += 1
            with changed:
                self._dropped += dropped
                self._unwritten -= 1
                changed.notify_all()


def to_stream(stream: TextIO) -> Write:
    """Writes to a stream at once.

    To its file by an object of our own: Python flushes standard output when it ends, and would wait for the writer.
    """
    try:
        own: TextIO = open(os.dup(stream.fileno()), "w", encoding="utf-8", errors="replace")  # noqa: SIM115
    except (OSError, ValueError):  # it has no file, or is closed
        own = stream

    def write(text: str) -> None:
        own.write(text)
        own.flush()

    return write


def to_file(path: Path) -> Write:
    """Appends to a file, opened again when it was moved away; it may be a pipe.

    Raises OSError where it cannot be opened, a pipe excepted: to open one waits for its reader.
    """
    if not path.is_fifo():
        with path.open("a"):
            pass
    elif not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return _WatchedFile(path).write


class _WatchedFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._opened = (0, 0)

    def write(self, text: str) -> None:
        """Append it."""
        if self._file is not None and self._moved():
            self._close()
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8")
            status = os.fstat(self._file.fileno())
            self._opened = status.st_dev, status.st_ino
        try:
            self._file.write(text)
            self._file.flush()
        except OSError:
            self._close()  # what is left in its buffer would be tried again with the next line
            raise

    def _moved(self) -> bool:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != self._opened

    def _close(self) -> None:
        assert self._file is not None
        with contextlib.suppress(OSError):
            self._file.close()
        self._file = None
