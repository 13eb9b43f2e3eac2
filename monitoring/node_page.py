"""The metrics of all processes of a node, as one page."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from monitoring.merged import MergedFiles
from monitoring.shared_directory import SharedDirectory
from monitoring.specs import PREFIX

NODES = "node-*"
"""Directories of Ray nodes below one that holds no metrics itself, but all of a machine's or a pod's."""


class NodePage:
    """The declared families of all processes that share `directory`, merged. Threads may share it.

    The directories of nodes below it count as well: an exporter beside a pod's processes cannot know a node's id.
    Raises OSError where the directory can be neither made nor written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = SharedDirectory(directory)
        self._merged = MergedFiles(PREFIX)
        self._lock = threading.Lock()

    def text(self) -> bytes:
        """In Prometheus' text format; the dead are swept first. May wait for who sweeps. Raises OSError."""
        with self._lock:
            self._read()
            return self._merged.text().encode()

    def _read(self) -> None:
        below = [SharedDirectory(path) for path in sorted(self._directory.path.glob(NODES))]
        with contextlib.ExitStack() as stack:
            files: list[Path] = []
            for directory in (self._directory, *below):
                stack.enter_context(directory.locked())
                files += directory.swept_files()
            self._merged.read(files)
