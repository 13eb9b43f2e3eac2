"""Which version of StarCoder Serve runs."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def package_version() -> str:
    """Of the installed package; `0+source` where only its source is there."""
    try:
        return version("starcoder-serve")
    except PackageNotFoundError:
        return "0+source"
