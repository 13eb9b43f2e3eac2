"""Where on earth this process stands, by its clock."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

FAR_WEST, FAR_EAST = "UTC+9:30", "UTC-9"
"""As POSIX writes them: by how much UTC is ahead."""


def stand(zone: str) -> None:
    os.environ["TZ"] = zone
    time.tzset()


@contextmanager
def standing_at(zone: str) -> Iterator[None]:
    """For a block."""
    before = os.environ["TZ"]
    stand(zone)
    try:
        yield
    finally:
        stand(before)
