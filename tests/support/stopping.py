"""How long `starcoder serve` may take to end, by the patience of each of its parts."""

from __future__ import annotations

import inspect

from deployments.cluster.temporary import remove
from deployments.command.local import RAY_STOP_S, SERVE_STOP_S
from deployments.command.processes import KILLED_S, end_descendants
from deployments.settings import Settings


def longest_stop(settings: Settings) -> float:
    """Seconds from the signal."""
    defaults = (inspect.signature(function).parameters["patience_s"].default for function in (end_descendants, remove))
    return settings.drain_timeout_s + SERVE_STOP_S + RAY_STOP_S + KILLED_S + sum(defaults)
