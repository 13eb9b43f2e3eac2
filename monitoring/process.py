"""Where this process keeps its metrics, and the text that a scrape gets."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import prometheus_client
from prometheus_client import CollectorRegistry, values

from monitoring.allocated import AllocatedDict
from monitoring.families import Families
from monitoring.shared_directory import SharedDirectory, node_registry
from monitoring.specs import PREFIX

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

_families: Families | None = None


def init(directory: Path | None) -> None:
    """Keep this process's metrics in `directory`, shared with the node's other processes; None: in memory.

    Call it once, before the first recorder is made; after another call, recorders made from then on write to the
    new place. Raises OSError where the directory can be neither made nor written.
    `prometheus_client` reads its mode from the environment when it is imported, which in a worker that was
    started from a pool has long happened; so the mode is set here, on the module.
    """
    global _families
    prometheus_client.disable_created_metrics()
    if directory is None:
        values.ValueClass = values.MutexValue
        _families = Families()
    else:
        shared = SharedDirectory(directory.absolute())
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared.path)  # read whenever a file is opened
        values.MmapedDict = AllocatedDict  # type: ignore[misc]
        values.ValueClass = values.MultiProcessValue(shared.identifier)
        _families = Families(shared.identifier)


def families() -> Families:
    """This process's metrics; in memory if `init` has not said otherwise."""
    if _families is None:
        init(None)
    assert _families is not None
    return _families


def render(directory: Path | None = None) -> bytes:
    """The metrics of all processes that share `directory`, or of this one alone, in Prometheus' text format.

    Takes milliseconds and may wait for another process's scrape: call it in a thread. Its content type is
    CONTENT_TYPE.
    """
    registry = families().registry if directory is None else _registry(directory)
    return prometheus_client.generate_latest(registry)


@lru_cache(maxsize=16)
def _registry(directory: Path) -> CollectorRegistry:
    return node_registry(directory, PREFIX)
