"""`prometheus_client`'s dictionary in a mapped file, for a file system that may be full.

The library makes its files sparse: to write a page for which there is no room kills the process (SIGBUS). Here the
room is taken first. Where there is none, values go on in this process's memory, unseen by the node's exporter.
"""

from __future__ import annotations

import logging
import mmap
import os
from pathlib import Path
from typing import Any

from prometheus_client.mmap_dict import _INITIAL_MMAP_SIZE, MmapedDict, _pack_integer

logger = logging.getLogger(__name__)


class AllocatedDict(MmapedDict):
    """A dict of doubles. strict: raise OSError where there is no room, rather than go on in memory."""

    def __init__(self, filename: str, read_mode: bool = False, strict: bool = False) -> None:
        self._strict = strict
        self._in_memory = False
        try:
            if not read_mode:
                with open(filename, "ab") as file:
                    _allocate(file.fileno(), max(os.fstat(file.fileno()).st_size, _INITIAL_MMAP_SIZE))
        except OSError as error:
            if strict:
                raise
            self._begin_in_memory(filename, error)
        else:
            super().__init__(filename, read_mode)

    def _init_value(self, key: str) -> None:
        needed = self._used + len(key.encode()) + 32  # its length, padding and two doubles
        while self._capacity < needed:
            self._grow(self._capacity * 2)
        super()._init_value(key)

    def _grow(self, capacity: int) -> None:
        if not self._in_memory:
            try:
                _allocate(self._f.fileno(), capacity)
                self._m = mmap.mmap(self._f.fileno(), capacity)
                self._capacity = capacity
                return
            except OSError as error:
                if self._strict:
                    raise
                self._leave(error)
        memory = mmap.mmap(-1, capacity)
        memory[: self._used] = self._m[: self._used]
        self._m, self._capacity = memory, capacity

    def _begin_in_memory(self, filename: str, error: OSError) -> None:
        self._f: Any = open(os.devnull, "rb")  # noqa: SIM115
        self._fname = filename
        self._capacity = _INITIAL_MMAP_SIZE
        self._m: Any = mmap.mmap(-1, self._capacity)
        self._positions: dict[str, int] = {}
        self._used = 8
        _pack_integer(self._m, 0, self._used)
        self._leave(error)

    def _leave(self, error: OSError) -> None:
        """The file keeps what it counted so far, but a gauge that nobody sets any more is wrong."""
        self._in_memory = True
        path = Path(self._fname)
        if path.name.startswith("gauge"):
            path.unlink(missing_ok=True)
        logger.warning("metrics go on in memory, where the exporter does not see them: %s: %s", path, error)


def _allocate(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    elif os.fstat(file).st_size < size:
        os.ftruncate(file, size)
