"""The environment of a Python process that a test starts."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]


def with_project(**more: str) -> dict[str, str]:
    """Ours, in which the project is found before whatever else PYTHONPATH names, and `more`."""
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
    return {**os.environ, "PYTHONPATH": path, **more}
