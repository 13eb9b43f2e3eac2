"""What a failure of the drill is: what is done, to which server, and what should be seen of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.drill.clients import Load
from benchmarks.drill.observed import Observed
from benchmarks.servers import SERVE

PEOPLE = Load("people", streams=2, pause_s=1.0)
"""Who asks in any case: about two requests a second."""


class Stand(Protocol):
    """A running server with those who ask it, as a failure meets it.

    home: a directory that goes with it. checkpoint: its own copy. pid: of the server's command. metrics_port: of its
    exporter. observed: by whom.
    """

    @property
    def home(self) -> Path: ...

    @property
    def checkpoint(self) -> Path: ...

    @property
    def pid(self) -> int: ...

    @property
    def metrics_port(self) -> int: ...

    @property
    def observed(self) -> Observed: ...

    def pids(self, kind: str) -> list[int]:
        """Processes of the server whose command line holds `kind`, oldest first."""

    def clients(self, load: Load) -> AbstractContextManager[None]:
        """More clients, until it is left."""


Harm = Callable[[Stand], AbstractContextManager[None]]
"""Done when it is entered; what goes on ends when it is left."""


@dataclass(frozen=True)
class Expected:
    """fires: alerts that fire within `within_s` seconds of the failure, all of them; none: it is watched for so long.

    may: alerts that may fire too. Every other one should not.
    """

    fires: tuple[str, ...]
    within_s: float
    may: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """title: in the table. how: it is done. panels: titles of those that show it.

    options: of the server, beside those of every drill. command: which takes them. environment: of its processes.
    background: who asks all the time. alone: it takes all of the machine, so no other one is tried beside it.
    """

    name: str
    title: str
    how: str
    harm: Harm
    panels: tuple[str, ...]
    expected: Expected
    options: tuple[str, ...] = ()
    command: Sequence[str] = SERVE
    environment: Callable[[Path], Mapping[str, str]] = lambda home: {}
    background: Load = PEOPLE
    alone: bool = False


def rounds(failures: Sequence[Failure], together: int) -> list[list[Failure]]:
    """Which are tried at the same time: at most `together`, those beside each other that take about as long.

    Raises ValueError where `together` is below 1.
    """
    if together < 1:
        raise ValueError("at least one failure is tried at a time")
    found = [[failure] for failure in failures if failure.alone]
    others = sorted((f for f in failures if not f.alone), key=lambda f: f.expected.within_s, reverse=True)
    return found + [others[first : first + together] for first in range(0, len(others), together)]
