"""How far a run is, on standard error: a bar in a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType

WIDTH = 30
QUIET_S = 30.0
REDRAWN_S = 0.1


class Progress:
    """A context manager; `add` what is done."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self._what, self._total, self._done, self._began_with = what, total, done, done
        self._started = self._shown = time.monotonic()

    def __enter__(self) -> Progress:
        self._show()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._done > self._began_with:
            self._show()
        if sys.stderr.isatty():
            print(file=sys.stderr)

    def add(self, number: int = 1) -> None:
        self._done += number
        pause = REDRAWN_S if sys.stderr.isatty() else QUIET_S
        if time.monotonic() - self._shown >= pause:
            self._show()

    def line(self) -> str:
        filled = WIDTH * self._done // self._total if self._total else WIDTH
        bar = "█" * filled + "·" * (WIDTH - filled)
        return f"{self._what} {bar} {self._done:,}/{self._total:,}{self._left()}"

    def _left(self) -> str:
        """At the pace of this run, which what was there before has no part in."""
        new = self._done - self._began_with
        if not new or self._done >= self._total:
            return ""
        seconds = (time.monotonic() - self._started) / new * (self._total - self._done)
        return f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"

    def _show(self) -> None:
        self._shown = time.monotonic()
        if sys.stderr.isatty():
            print(f"\r{self.line()}\x1b[K", end="", file=sys.stderr, flush=True)
        else:
            print(self.line(), file=sys.stderr, flush=True)
