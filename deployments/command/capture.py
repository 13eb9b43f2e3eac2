"""All that a process and its children write to standard output and standard error, handed over in lines."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import io
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator

READ_BYTES = 65_536
LONGEST_LINE = 65_536
MOST_LINES = 1000
TOGETHER_S = 0.1
"""Lines that come within so long of each other are handed over together: a traceback is written in pieces."""

END_S = 1.0

PIPE_BYTES = 1 << 20
"""What C code prints while it holds the interpreter has to fit, since nobody reads meanwhile. More is root's."""


@contextlib.contextmanager
def captured(tell: Callable[[list[str]], None]) -> Iterator[None]:
    """For the block, what is written to the descriptors 1 and 2 comes to `tell`, called by a thread; it must not wait.

    Copies of the two that were made before go where they went, and so does what Python says of a process that crashes:
    nobody would be left to hand it over.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # a pipe's would keep lines back
    read, write = os.pipe()
    with contextlib.suppress(AttributeError, OSError):  # not Linux, or somebody has many
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    kept = [(number, os.dup(number)) for number in (1, 2)]
    _flush()
    for number, _ in kept:
        os.dup2(write, number)
    os.close(write)
    told_of_crashes = faulthandler.is_enabled()
    faulthandler.enable(kept[-1][1])
    thread = threading.Thread(target=_read, args=(read, tell), name="captured output", daemon=True)
    thread.start()
    try:
        yield
    finally:
        _flush()
        for number, copy in kept:
            os.dup2(copy, number)
        if told_of_crashes:
            faulthandler.enable(2)
        else:
            faulthandler.disable()
        for _, copy in kept:
            os.close(copy)
        thread.join(END_S)  # longer only where a child lives on that has the pipe, too


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # there may be none, or none any more
            stream.flush()


def _read(descriptor: int, tell: Callable[[list[str]], None]) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    tell = _whatever_comes(tell)
    lines: list[str] = []
    rest, data = b"", b"."
    with contextlib.closing(os.fdopen(descriptor, "rb", buffering=0)):
        while data:
            if lines and (len(lines) >= MOST_LINES or not poll.poll(TOGETHER_S * 1000)):
                tell(lines)
                lines = []
            data = os.read(descriptor, READ_BYTES)
            *whole, rest = (rest + data).split(b"\n")
            if not data or len(rest) > LONGEST_LINE:
                whole.append(rest)
                rest = b""
            lines += [line.decode(errors="replace") for line in whole]
    tell(lines)


def _whatever_comes(tell: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """A pipe that nobody reads would stop the process, or end it. Nor may who reads it write to it."""

    def told(lines: list[str]) -> None:
        try:
            tell(lines)
        except Exception as error:  # whatever it is: what is printed may be anything
            with contextlib.suppress(Exception):
                tell([f"ERROR {len(lines)} lines that were printed cannot be told: {type(error).__name__}"])

    return told
