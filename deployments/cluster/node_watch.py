"""Noticing that this node's part of Ray has ended, while there is still time to say so."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

ENDS_WITH_GCS = "STARCODER_ENDS_WITH_GCS"
"""In the environment of a Ray whose command ends it as soon as its GCS has ended: then it is not waited for either."""


def raylet() -> int | None:
    """The process id of this node's, whose child this process is; None where it is none, or that cannot be told."""
    parent = os.getppid()
    return parent if _name(parent) == "raylet" else None


def gcs(raylet: int) -> int | None:
    """The process id of the GCS that was started beside this raylet; None where this process may outlive it."""
    if ENDS_WITH_GCS not in os.environ:
        return None
    everybody = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    found = (pid for pid in everybody if _name(pid) == "gcs_server" and _parent(pid) == _parent(raylet))
    return next(found, None)


def on_node_end(call: Callable[[], None]) -> bool:
    """Call it, on this loop, when this node's raylet ends: Ray ends this process, too, when it looks next.

    Or when its GCS has ended, and with that the node: nothing of Ray's ends this process meanwhile.
    False where this process is no child of a raylet, or the system (not Linux) cannot tell.
    """
    parent = raylet()
    if parent is None:
        return False
    ending: list[int] = []
    loop = asyncio.get_running_loop()

    def ended() -> None:
        for watched in ending:
            loop.remove_reader(watched)
            os.close(watched)
        ending.clear()
        call()

    for pid in (parent, gcs(parent)):
        if pid is not None:
            with contextlib.suppress(OSError, AttributeError):
                ending.append(os.pidfd_open(pid))
                loop.add_reader(ending[-1], ended)
    return bool(ending)


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _parent(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        _, _, behind_the_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        return int(behind_the_name.split()[1])
    return None
