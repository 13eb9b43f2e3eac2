"""How a command is told to stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Stopped(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived."""


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    raise Stopped


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def listen() -> None:
    for number in _SIGNALS:
        signal.signal(number, _raise_stopped)


@contextlib.contextmanager
def obeyed() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    listen()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ignored() -> Iterator[None]:
    """The last part of the cleaning up takes seconds, and must not be cut short."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        listen()
