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
from typing import Protocol, TextIO
from weakref import WeakSet

Write = Callable[[str], object]

CAPACITY = 4 << 20
"""Characters that wait at most, of all lines together."""
FLUSH_S = 1.0


class Sink(Protocol):
    """A `Write` with a file of its own."""

    def __call__(self, text: str, /) -> object: ...

    def close(self) -> None:
        """Give the file back."""


class LineWriter:
    """Writes in the order in which it was told to; what does not fit its queue, or cannot be written, is counted.

    notice: makes the text that tells of `count` lines that were dropped; it is written with the next line that can be.
    """

    def __init__(self, notice: Callable[[int], str], capacity: int = CAPACITY) -> None:
        self._notice = notice
        self._capacity = capacity
        self._start()
        _all.add(self)

    def _start(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Write, str]] = deque()
        self._characters = 0
        self._dropped = 0
        self._unwritten = 0
        self._ending = False
        self._thread: threading.Thread | None = None

    def put(self, write: Write, text: str) -> None:
        """Have `write(text)` called; drop the text where too much waits already."""
        with self._changed:
            if self._waiting and self._characters + len(text) > self._capacity:
                self._dropped += 1
                return
            self._add(write, text)

    def close(self, sink: Sink) -> None:
        """Give up the thread, and then `sink`, once all that waits is written. Waits for neither."""
        with self._changed:
            self._add(lambda _: sink.close(), "")
            self._ending = True

    def _add(self, write: Write, text: str) -> None:
        self._ending = False  # who says something after the end gets another thread
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
                changed.wait_for(lambda: self._waiting or self._ending)
                if not self._waiting:
                    self._thread = None
                    return
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


_all: WeakSet[LineWriter] = WeakSet()


def _start_anew() -> None:
    for writer in _all:
        writer._start()


os.register_at_fork(after_in_child=_start_anew)  # threads stay with the parent


class _Stream:
    """To its file by an object of our own: Python flushes standard output at its end, and would wait for the writer."""

    def __init__(self, stream: TextIO) -> None:
        self._own: TextIO | None = None
        with contextlib.suppress(OSError, ValueError):  # it has no file, or is closed
            self._own = open(os.dup(stream.fileno()), "w", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._stream = self._own or stream

    def __call__(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def close(self) -> None:
        """The object of our own, not the stream."""
        if self._own is not None:
            self._own.close()


def to_stream(stream: TextIO) -> Sink:
    """Writes to a stream at once."""
    return _Stream(stream)


def to_file(path: Path) -> Sink:
    """Appends to a file, opened again when it was moved away; it may be a pipe.

    Raises OSError where it cannot be opened, a pipe excepted: to open one waits for its reader.
    """
    if not path.is_fifo():
        with path.open("a"):
            pass
    elif not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return _WatchedFile(path)


class _WatchedFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._opened = (0, 0)

    def __call__(self, text: str) -> None:
        if self._file is not None and self._moved():
            self.close()
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8")
            status = os.fstat(self._file.fileno())
            self._opened = status.st_dev, status.st_ino
        try:
            self._file.write(text)
            self._file.flush()
        except OSError:
            self.close()  # what is left in its buffer would be tried again with the next line
            raise

    def _moved(self) -> bool:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != self._opened

    def close(self) -> None:
        """Until the next line."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = None
