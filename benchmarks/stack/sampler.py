"""Where the Python code of a process spends its processor time.

`Profile.environment` makes every Python process of a server take samples, Ray's own too, through `sitecustomize`: while
a file is there (`Profile.taking`), each of Python's threads is signalled by a timer of its own processor time, and
`faulthandler` writes its stack on the spot. A thread that took samples in Python would need the interpreter for it, and
see where others let go of it instead of what they do. Threads that native code has made are left alone: they come into
Python and leave it all the time, and `faulthandler` would meet them in between.

It has its price: about one sample in ten thousand meets a frame that is half made, and ends the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

DIRECTORY = "STACK_PROFILE"
PERIOD_S = 0.01
WATCH_S = 0.1

_CUSTOMIZE = f"""import os
if os.environ.get({DIRECTORY!r}):
    from {__name__} import start
    start()
"""
_FRAME = re.compile(r'  File "(.+)", line \d+ in (.+)')

Stack = tuple[str, ...]


class Samples:
    """Of one process. threads: seconds by thread, those of native code among them."""

    def __init__(self, written: str, threads: dict[str, float]) -> None:
        self.threads = threads
        self._stacks = Counter(stacks(written))
        self.count = self._stacks.total()

    def cumulative(self) -> Counter[str]:
        """Samples by function, in it and in what it calls."""
        found: Counter[str] = Counter()
        for stack, count in self._stacks.items():
            for function in set(stack):
                found[function] += count
        return found

    def own(self) -> Counter[str]:
        """Samples by function, in it and in what it calls of C."""
        found: Counter[str] = Counter()
        for stack, count in self._stacks.items():
            found[stack[0]] += count
        return found


def stacks(written: str) -> Iterator[Stack]:
    """What `faulthandler` wrote, innermost function first; frames that are cut off are left out."""
    for text in written.split("Stack (most recent call first):\n")[1:]:
        if stack := tuple(f"{name} {_short(file)}" for file, name in _FRAME.findall(text)):
            yield stack


def _short(file: str) -> str:
    return "/".join(file.rsplit("/", 2)[-2:])


class Profile:
    """The samples of all processes of a server that is started with `environment`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "python").mkdir(parents=True)
        (directory / "python" / "sitecustomize.py").write_text(_CUSTOMIZE)
        self.environment = {DIRECTORY: str(directory), "PYTHONPATH": str(directory / "python")}

    @contextlib.contextmanager
    def taking(self) -> Iterator[None]:
        switch = self.directory / "on"
        switch.touch()
        try:
            yield
        finally:
            switch.unlink()

    def read(self, pid: int) -> Samples | None:
        """None where the process has not ended its part, which takes it a moment after `taking`."""
        stacks, threads = self.directory / f"{pid}.stacks", self.directory / f"{pid}.json"
        if not threads.exists():
            return None
        return Samples(stacks.read_text(errors="replace"), json.loads(threads.read_text()))


def start() -> None:
    threading.Thread(target=_watch, args=(Path(os.environ[DIRECTORY]),), name="sampler", daemon=True).start()


def _watch(directory: Path) -> None:
    switch, pid = directory / "on", os.getpid()
    while not switch.exists():
        time.sleep(WATCH_S)
    before = thread_seconds()
    with (directory / f"{pid}.stacks").open("w") as file:
        faulthandler.register(signal.SIGPROF, file, all_threads=False)
        timers = Timers()
        while switch.exists():
            timers.watch_new_threads()
            time.sleep(WATCH_S)
        timers.stop()
        time.sleep(WATCH_S)  # one may be on its way, and the file has to be there for it
    spent = {name: seconds - before.get(name, 0.0) for name, seconds in thread_seconds().items()}
    new = directory / f"{pid}.new"
    new.write_text(json.dumps(spent))
    new.rename(new.with_suffix(".json"))


class _Event(ctypes.Structure):
    """struct sigevent of timer_create(2) on Linux, whose size is 64."""

    _fields_ = [
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("rest", ctypes.c_int * 11),
    ]


class _Times(ctypes.Structure):
    """struct itimerspec: the interval, and the first time."""

    _fields_ = [("seconds", ctypes.c_long * 4)]


_SIGEV_THREAD_ID = 4
_THREAD_CLOCK = 4 | 2  # per thread, by the scheduler's accounts


class Timers:
    """One for each thread of Python's but this, which signals that thread."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timers: dict[int, ctypes.c_void_p] = {threading.get_native_id(): ctypes.c_void_p()}

    def watch_new_threads(self) -> None:
        nanoseconds = int(PERIOD_S * 1e9)
        for thread in threading.enumerate():
            id = thread.native_id
            if id is None or id in self._timers:
                continue
            timer = self._timers[id] = ctypes.c_void_p()
            event = _Event(signo=signal.SIGPROF, notify=_SIGEV_THREAD_ID, thread=id)
            clock = ctypes.c_int((~id << 3) | _THREAD_CLOCK)
            if self._libc.timer_create(clock, ctypes.byref(event), ctypes.byref(timer)) == 0:
                times = _Times((ctypes.c_long * 4)(0, nanoseconds, 0, nanoseconds))
                self._libc.timer_settime(timer, 0, ctypes.byref(times), None)

    def stop(self) -> None:
        for timer in self._timers.values():
            if timer:
                self._libc.timer_delete(timer)


def thread_seconds() -> dict[str, float]:
    """Processor time by name of thread, several of the same name together."""
    found: Counter[str] = Counter()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError, ValueError):
            seconds = int((task / "schedstat").read_text().split()[0]) / 1e9
            found[(task / "comm").read_text().strip()] += seconds  # type: ignore[assignment]
    return dict(found)
