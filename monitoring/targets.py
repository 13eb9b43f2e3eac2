"""Where Prometheus finds the exporters: a directory with a file of each, for file_sd.

Who has announced itself holds a lock on its file for as long as it lives. The kernel lets go of the lock however the
process ends, so a file without one is a dead exporter's: the next that comes removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path

from monitoring.file_locks import exclusively, is_held


class Announcement:
    """A node's targets, job -> address, until `close` or this process's end.

    Raises OSError where the directory can be neither made nor written.
    """

    def __init__(self, directory: Path, node: str, addresses: Mapping[str, str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._file = directory / f"{node}.json"
        following = self._file.with_suffix(".next")
        with exclusively(directory):
            _remove_stale(directory)
            self._held = os.open(following, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            fcntl.flock(self._held, fcntl.LOCK_EX)
            groups = [{"targets": [addresses[job]], "labels": {"job": job, "node": node}} for job in addresses]
            os.write(self._held, json.dumps(groups).encode())
            following.rename(self._file)  # Prometheus may be reading

    def close(self) -> None:
        with contextlib.suppress(FileNotFoundError), exclusively(self._directory):
            if os.path.samestat(os.fstat(self._held), self._file.stat()):
                self._file.unlink()
        os.close(self._held)


def _remove_stale(directory: Path) -> None:
    for file in directory.glob("*.json"):
        if _is_announcement(file) and not is_held(file):
            file.unlink()


def _is_announcement(file: Path) -> bool:
    """Whether an exporter has written it, and not somebody who announces something else there."""
    try:
        return bool(all(group["labels"]["node"] == file.stem for group in json.loads(file.read_text())))
    except (ValueError, LookupError, TypeError, OSError):
        return False
