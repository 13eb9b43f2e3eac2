"""What a command of `starcoder` is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from deployments.options import OptionParser


class CommandModule(Protocol):
    """What does it."""

    def parser(self) -> OptionParser: ...

    def run(self, arguments: Sequence[str]) -> int:
        """The exit code. Raises ConfigError for a wrong command line, and RuntimeError."""


class Command(NamedTuple):
    """module: imported when it is asked for, since some take seconds. help: what it does, in a line."""

    module: Callable[[], CommandModule]
    help: str
