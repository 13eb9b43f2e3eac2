"""The processes of a Ray that one server starts for itself: those that it needs.

Ray has no options for this. Nobody misses what is left out: it is Ray that a user of `starcoder serve` never sees.
"""

from __future__ import annotations

from typing import Any


def keep_few() -> None:
    """For the Ray that this process starts next."""
    from ray._private import services
    from ray._private.node import Node

    services.start_api_server = _no_api_server
    Node.start_monitor = _no_autoscaler


def _no_api_server(*_: Any, **__: Any) -> tuple[None, None]:
    """In place of the process of Ray's dashboard: without the dashboard it only tells how it is itself.

    Ray waits for it, and takes this for one that failed to start, with which it goes on.
    """
    return None, None


def _no_autoscaler(*_: Any) -> None:
    """In place of the process that starts and ends nodes: there is one, this machine."""
