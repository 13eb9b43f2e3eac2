"""A file in which one process keeps its metrics of one kind, as `prometheus_client.mmap_dict` lays it out."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_HEAD_BYTES = 8
"""How much of the file is used, and padding."""

_LENGTH = struct.Struct("=i")
_DOUBLE_BYTES = 8
"""Of an entry, behind its key: the value, and a timestamp that nobody needs."""

ARCHIVE = "archive"
"""Ends the name of a file that is replaced as a whole; the others only grow."""


_EXTREMES: dict[str, Callable[[float, float], float]] = {"livemax": max, "livemin": min}


class Series(NamedTuple):
    """What a key says. name: of the sample; the family's has no `_bucket` or `_total`."""

    family: str
    name: str
    labels: tuple[tuple[str, str], ...]
    documentation: str

    @classmethod
    def of(cls, key: str) -> Series:
        family, name, labels, documentation = json.loads(key)
        return cls(family, name, tuple(sorted(labels.items())), documentation)


class StoredFile:
    """Its keys and values, as they were when it was last read.

    The name says the kind and, of gauges, how those of several processes become one: `gauge_livemax_ID.db`.
    extreme: which of two values is shown; None: their sum.
    """

    def __init__(self, path: Path) -> None:
        self.kind, *rest = path.stem.split("_")
        self.extreme = _EXTREMES.get(rest[0]) if self.kind == "gauge" else None
        self.keys: list[str] = []
        self.values: tuple[float, ...] = ()
        self._path = path
        self._grows = rest[-1] != ARCHIVE
        self._data = b""
        self._parsed = 0
        self._parts: list[str] = []
        self._layout = struct.Struct("=")

    def read(self) -> bool:
        """Whether anything has changed. Parses what is new alone. Raises FileNotFoundError."""
        data = self._used()
        if data == self._data:
            return False
        if not self._grows:
            self._parsed, self._parts, self.keys = 0, [], []
        self._parse(data)
        self._data = data
        self.values = self._layout.unpack_from(data)
        return True

    def _used(self) -> bytes:
        """Nothing of a file that its process has made, and not sized yet."""
        with self._path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            return file.read(max(0, _LENGTH.unpack_from(head)[0] - _HEAD_BYTES)) if head else b""

    def _parse(self, data: bytes) -> None:
        at = self._parsed
        keys = list(self.keys)
        while at < len(data):
            length = _LENGTH.unpack_from(data, at)[0]
            begins = at + _LENGTH.size
            ends = begins + length + 8 - (begins + length) % 8
            keys.append(data[begins : begins + length].decode())
            self._parts.append(f"{ends - at}xd{_DOUBLE_BYTES}x")
            at = ends + 2 * _DOUBLE_BYTES
        if at != self._parsed:
            self.keys = keys
            self._layout = struct.Struct("=" + "".join(self._parts))
            self._parsed = at
