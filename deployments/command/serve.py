"""`starcoder serve`: a server, until it is told to stop."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.options import OptionParser
from deployments.settings import Settings


def parser() -> OptionParser:
    return Settings.parser("starcoder serve")


def run(arguments: Sequence[str]) -> int:
    """Raises ConfigError before anything is started, and StartError."""
    from deployments.command.local import serve_forever

    return serve_forever(Settings.from_command_line(arguments))
