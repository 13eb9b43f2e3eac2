"""How long a server takes to answer a question that costs it nothing, asked again and again by a process of its own.

One question is open at a time. Where its answer is late, those are counted too that others would have asked meanwhile,
each as late as it would have been: a stall of seconds is many late answers, not one. The process prints what it finds,
a line of JSON each, until its standard input ends.
"""

from __future__ import annotations

import http.client
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Probe:
    """asked: on this machine's monotonic clock. seconds: until the answer. status: 0 where there was none."""

    path: str
    asked: float
    seconds: float
    status: int

    def as_many(self, every_s: float) -> Iterator[Probe]:
        """This one, and those that were due while it waited (as HdrHistogram corrects for coordinated omission)."""
        for number in range(max(1, math.ceil(self.seconds / every_s))):
            late = number * every_s
            yield Probe(self.path, self.asked + late, self.seconds - late, self.status)


class Prober:
    """A context manager; `probes` grows while it is open. headers: sent along."""

    def __init__(self, url: str, paths: tuple[str, ...], every_s: float, headers: dict[str, str]) -> None:
        self.probes: list[Probe] = []
        self._paths = paths
        self._every_s = every_s
        command = [sys.executable, "-m", __name__, url, str(every_s), json.dumps(headers), *paths]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Prober:
        self._reader.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_TIMEOUT_S + 10)
        finally:
            self._process.kill()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.probes.extend(Probe(**json.loads(line)).as_many(self._every_s))

    def wait(self) -> None:
        """Return when there is an answer of every path. Raises RuntimeError."""
        self._until(lambda probes: {probe.path for probe in probes} == set(self._paths))

    def between(self, began: float, ended: float, path: str) -> list[Probe]:
        """Those asked in a time, once the last of them has been answered. Raises RuntimeError."""
        self._until(lambda probes: any(probe.asked >= ended for probe in probes if probe.path == path))
        return [probe for probe in list(self.probes) if probe.path == path and began <= probe.asked < ended]

    def _until(self, condition: Callable[[list[Probe]], bool]) -> None:
        deadline = time.monotonic() + _TIMEOUT_S + 10
        while not condition(list(self.probes)):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the process that asks has ended")
            time.sleep(0.01)


def _ask(
    url: str, path: str, every_s: float, headers: dict[str, str], stop: threading.Event, writing: threading.Lock
) -> None:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
    asked = time.monotonic()
    while not stop.wait(max(0.0, asked - time.monotonic())):
        asked = time.monotonic()
        try:
            connection.request("GET", parts.path.rstrip("/") + path, headers=headers)
            response = connection.getresponse()
            response.read()
            status = response.status
        except (OSError, http.client.HTTPException):
            status = 0
            connection.close()
        found = {"path": path, "asked": asked, "seconds": time.monotonic() - asked, "status": status}
        with writing:
            print(json.dumps(found), flush=True)
        asked += every_s


def main() -> None:
    url, every_s, headers, *paths = sys.argv[1:]
    stop, writing = threading.Event(), threading.Lock()
    asking = [
        threading.Thread(target=_ask, args=(url, path, float(every_s), json.loads(headers), stop, writing))
        for path in paths
    ]
    for thread in asking:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in asking:
        thread.join()


if __name__ == "__main__":
    main()
