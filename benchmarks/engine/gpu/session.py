"""Measurements one after the other within one budget: what each found is kept before the next one starts.

One that raises, is wrong or gets stuck costs its own entry only. What Python can interrupt is interrupted; what it
cannot (a kernel that hangs, a GPU that answers no more) costs the process, which starts again with what is left.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import math
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from benchmarks.report import Row

GRACE = 15.0
"""Seconds after its limit in which a measurement can still be interrupted."""
LAST_RESORT = 30.0
"""Seconds after those in which a new process can still be started from this one."""
Status = Literal["running", "done", "wrong", "failed", "stuck", "skipped"]


class Skip(Exception):
    """Nothing to measure here; the text says why."""


class Stuck(BaseException):
    """A measurement took far too long. No Exception, so that nothing takes it for an error of its own."""


@dataclass
class Found:
    """metrics: numbers by names with their units. rows: a table of them, its first row the head."""

    metrics: dict[str, Any]
    rows: list[Row] = field(default_factory=list)


class Wrong(Exception):
    """What was found is not what it has to be: found holds it all the same."""

    def __init__(self, text: str, found: Found) -> None:
        super().__init__(text)
        self.found = found


@dataclass(frozen=True)
class Measurement:
    """seconds: what it takes on the machine that the plan is for. needs: the one without which it cannot run."""

    name: str
    seconds: float
    work: Callable[[], Found]
    needs: str | None = None


@dataclass
class Entry:
    """What became of a measurement. seconds: that it took. said: the reason or the whole error. warnings: logged."""

    name: str
    status: Status
    seconds: float = 0.0
    metrics: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    said: str = ""
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Metrics that JSON cannot hold, as words."""
        metrics = {name: value if _is_json(value) else str(value) for name, value in self.metrics.items()}
        return {**asdict(self), "metrics": metrics}


def _is_json(value: Any) -> bool:
    return math.isfinite(value) if isinstance(value, float) else isinstance(value, str | int | None)


def taken_up(entries: Sequence[dict[str, Any]]) -> list[Entry]:
    """Entries of a result that was cut short, without those that are to be tried again."""
    found = [Entry(**entry) for entry in entries if entry["status"] != "skipped"]
    for entry in found:
        if entry.status == "running":
            entry.status, entry.said = "failed", "the process ended while it ran"
    return found


class Session:
    """keep: called with all entries whenever one changes. clean: frees what a measurement left behind; False where
    nothing more can be measured by this process. restart: goes on in a new process within the given seconds, with what
    was kept; it does not return. before: entries that need not be measured again.
    """

    def __init__(
        self,
        budget_s: float,
        keep: Callable[[list[Entry]], None],
        *,
        clean: Callable[[], bool] = lambda: True,
        restart: Callable[[float], None] = lambda left: None,
        before: Sequence[Entry] = (),
        clock: Callable[[], float] = time.monotonic,
        grace_s: float = GRACE,
    ) -> None:
        self.entries = list(before)
        self._keep, self._clean, self._restart = keep, clean, restart
        self._clock, self._grace = clock, grace_s
        self._end = clock() + budget_s
        self._lock = threading.Lock()
        self._alive = True

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self._end - self._clock()

    def run(self, measurements: Sequence[Measurement]) -> list[Entry]:
        """An entry for each measurement, in order."""
        known = {entry.name for entry in self.entries}
        for measurement in measurements:
            if measurement.name in known:
                continue
            if reason := self._obstacle(measurement):
                self._add(Entry(measurement.name, "skipped", said=reason))
            else:
                self._measure(measurement)
        return self.entries

    def _obstacle(self, measurement: Measurement) -> str | None:
        if not self._alive:
            return "the GPU answers no more"
        status = {entry.name: entry.status for entry in self.entries}
        if measurement.needs is not None and status.get(measurement.needs) != "done":
            return f"needs {measurement.needs!r}, which was not done"
        if measurement.seconds > self.left:
            return f"takes some {measurement.seconds:.0f} s, and {max(self.left, 0):.0f} s are left"
        return None

    def _add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._keep(self.entries)

    def _measure(self, measurement: Measurement) -> None:
        entry = Entry(measurement.name, "running")
        self._add(entry)  # where the process ends by force, this says in what
        limit = min(3 * measurement.seconds + 30, self.left)
        started = self._clock()
        with self._watched(entry, limit):
            status = self._outcome(measurement, entry, limit)
            alive = self._clean()
        with self._lock:
            if entry.status != "running":  # the watch was faster, and a new process is about to go on
                return
            entry.status, entry.seconds, self._alive = status, self._clock() - started, alive
            self._keep(self.entries)
        if not alive:
            self._restart(self.left)

    def _outcome(self, measurement: Measurement, entry: Entry, limit: float) -> Status:
        status: Status = "done"
        try:
            with _noted(entry.warnings), _alarm(limit):
                found = measurement.work()
        except Skip as reason:
            entry.said = str(reason)
            return "skipped"
        except Wrong as error:
            found, entry.said, status = error.found, str(error), "wrong"
        except (Exception, SystemExit, Stuck) as error:  # argparse exits where it does not know an option
            entry.said = traceback.format_exc()
            traceback.clear_frames(error.__traceback__)  # they hold tensors
            return "stuck" if isinstance(error, Stuck) else "failed"
        entry.metrics, entry.rows = found.metrics, found.rows
        return status

    @contextlib.contextmanager
    def _watched(self, entry: Entry, limit: float) -> Iterator[None]:
        """For what no signal interrupts, a thread; for what holds Python's lock, a stack on stderr and the end."""
        watch = threading.Timer(limit + self._grace, self._give_up, [entry, limit])
        watch.daemon = True
        watch.start()
        assert sys.__stderr__ is not None
        faulthandler.dump_traceback_later(limit + self._grace + LAST_RESORT, exit=True, file=sys.__stderr__)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            watch.cancel()

    def _give_up(self, entry: Entry, limit: float) -> None:
        with self._lock:
            if entry.status != "running":
                return
            entry.status, entry.seconds = "stuck", limit + self._grace
            stacks = sys._current_frames().values()
            entry.said = "\n".join([entry.said, *("".join(traceback.format_stack(frame)) for frame in stacks)])
            self._keep(self.entries)
            self._restart(self.left)


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raises Stuck in the main thread after so many seconds."""

    def ring(*_: object) -> None:
        raise Stuck(f"after {seconds:.0f} s")

    handler = signal.signal(signal.SIGALRM, ring)
    waited_for, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, waited_for)
        signal.signal(signal.SIGALRM, handler)


@contextlib.contextmanager
def _noted(messages: list[str]) -> Iterator[None]:
    """Warnings that the engine logs: what it does without, and why."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    notes = Notes(logging.WARNING)
    logging.getLogger().addHandler(notes)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(notes)
