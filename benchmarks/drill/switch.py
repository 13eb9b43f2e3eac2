"""Files that break parts of a server while they are there, and the variable that tells its processes of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

Part = Literal["router", "drafts"]

_VARIABLE = "DRILL_SWITCHES"


def switch_in(home: Path, part: Part) -> Path:
    return home / f"{part}-broken"


def environment(home: Path) -> Mapping[str, str]:
    """Of the server's processes."""
    return {_VARIABLE: str(home)}


def is_on(part: Part) -> bool:
    """In a process of such a server. Raises KeyError in any other."""
    return switch_in(Path(os.environ[_VARIABLE]), part).exists()
