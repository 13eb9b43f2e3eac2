"""Noticing that this node's part of Ray has ended, while there is still time to say so."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path


def raylet() -> int | None:
    """The process id of this node's, whose child this process is; None where it is none, or that cannot be told."""
    parent = os.getppid()
    with contextlib.suppress(OSError):
        if Path(f"/proc/{parent}/comm").read_text().strip() == "raylet":
            return parent
    return None


def on_node_end(call: Callable[[], None]) -> bool:
    """Call it, on this loop, when this node's raylet ends: Ray ends this process, too, when it looks next.

    False where this process is no child of a raylet, or the system (not Linux) cannot tell.
    """
    parent = raylet()
    if parent is None:
        return False
    with contextlib.suppress(OSError, AttributeError):
        ending = os.pidfd_open(parent)
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(ending)
            os.close(ending)
            call()

        loop.add_reader(ending, ended)
        return True
    return False
