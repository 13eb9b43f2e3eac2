"""What a process does that a test kills."""

from __future__ import annotations

import os
import threading

from deployments.command.verify.child import Line


def wait(line: Line) -> None:
    """Say who it is, and wait until it is ended."""
    line.say(str(os.getpid()))
    threading.Event().wait()
