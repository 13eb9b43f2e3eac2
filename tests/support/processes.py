"""Other processes, by their ids."""

from __future__ import annotations

import contextlib
import os
import signal

from deployments.command.processes import command_line


def is_gone(pid: int) -> bool:
    return not command_line(pid)


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
