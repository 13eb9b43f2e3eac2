"""Triton's cache of compiled kernels, in two places: what an image brought, read only, and what this machine compiled.

Triton finds it by TRITON_CACHE_MANAGER=model.kernels.shipped_cache:ShippedCache; `ahead_of_time` fills the first place.
"""

from __future__ import annotations

import sys
from pathlib import Path

from triton.runtime.cache import FileCacheManager

DIRECTORY = Path(sys.prefix) / "share" / "triton"
"""Where an image keeps what it brings: TRITON_CACHE_DIR while it is built. Its files name each other by whole paths."""


class ShippedCache(FileCacheManager):
    """One kernel's files. What is written goes to Triton's own place, TRITON_CACHE_DIR or below the home directory."""

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        super().__init__(key, override, dump)
        self._shipped = _Shipped(key)

    def get_file(self, filename: str) -> str | None:
        """A file's path, or None."""
        found: str | None = super().get_file(filename) or self._shipped.get_file(filename)
        return found

    def get_group(self, filename: str) -> dict[str, str] | None:
        """The paths of the files that belong together, by their names, or None."""
        found: dict[str, str] | None = super().get_group(filename) or self._shipped.get_group(filename)
        return found


class _Shipped(FileCacheManager):
    """To be read from only: where the root is read-only, not even its directory could be made."""

    def __init__(self, key: str) -> None:
        self.cache_dir = str(DIRECTORY / key)
