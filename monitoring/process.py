"""Where this process keeps its metrics, and the text that a scrape gets."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
from functools import lru_cache
from pathlib import Path

import prometheus_client
from prometheus_client import values

from monitoring.allocated import AllocatedDict
from monitoring.families import Families
from monitoring.metrics import PROCESS_DEATHS
from monitoring.node_page import NodePage
from monitoring.shared_directory import SharedDirectory

logger = logging.getLogger(__name__)

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

_families: Families | None = None
_shared: SharedDirectory | None = None


def init(directory: Path | None) -> None:
    """Keep this process's metrics in `directory`, shared with the node's other processes; None: in memory.

    Call it once, before the first recorder is made; after another call, recorders made from then on write to the
    new place. Raises OSError where the directory can be neither made nor written.
    `prometheus_client` reads its mode from the environment when it is imported, which in a worker that was
    started from a pool has long happened; so the mode is set here, on the module.
    """
    global _families, _shared
    prometheus_client.disable_created_metrics()
    _shared = None
    if directory is None:
        values.ValueClass = values.MutexValue
        _families = Families()
    else:
        shared = SharedDirectory(directory.absolute())
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared.path)  # read whenever a file is opened
        values.MmapedDict = AllocatedDict  # type: ignore[misc]
        values.ValueClass = values.MultiProcessValue(shared.identifier)
        _families = Families(shared.identifier)
        _shared = shared


def families() -> Families:
    """This process's metrics; in memory if `init` has not said otherwise."""
    if _families is None:
        init(None)
    assert _families is not None
    return _families


def expect_farewell(process: str, model: str) -> None:
    """From now on it counts as a death if this process ends before `farewell`. process: one of labels.PROCESSES.

    One that is asked to end, by SIGTERM say, and does so by way of Python's own end, has said it.
    """
    families().counter(PROCESS_DEATHS, model, process)
    if _shared is not None:
        try:
            _shared.expect_farewell(PROCESS_DEATHS.key(model, process))
        except OSError as error:
            logger.warning("nobody will notice if this process is killed: %s", error)
        atexit.register(farewell)


def farewell() -> None:
    """This process ends in order, or has said itself why it does not."""
    if _shared is not None:
        with contextlib.suppress(OSError):
            _shared.farewell()


def render(directory: Path | None = None) -> bytes:
    """The metrics of all processes that share `directory`, or of this one alone, in Prometheus' text format.

    Takes milliseconds and may wait for another process's scrape: call it in a thread. Its content type is
    CONTENT_TYPE.
    """
    if directory is None:
        return prometheus_client.generate_latest(families().registry)
    return _page(directory).text()


@lru_cache(maxsize=16)
def _page(directory: Path) -> NodePage:
    return NodePage(directory)
