"""A file that breaks the routers of a server while it is there, and the variable that tells them of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_VARIABLE = "DRILL_ROUTER_SWITCH"


def switch_in(home: Path) -> Path:
    return home / "router-is-broken"


def environment(home: Path) -> Mapping[str, str]:
    """Of the server's processes."""
    return {_VARIABLE: str(switch_in(home))}


def is_on() -> bool:
    """In a process of such a server. Raises KeyError in any other."""
    return Path(os.environ[_VARIABLE]).exists()
