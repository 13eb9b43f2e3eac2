"""A plugin of pytest for runs that end with the first failure: the tests that mutmut found quickest go first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TIMES = Path("mutmut-stats.json")
"""In the folder in which mutmut runs the tests; it is not there before they have been timed."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seconds = json.loads(TIMES.read_text())["duration_by_test"] if TIMES.is_file() else {}
    items.sort(key=lambda item: seconds.get(item.nodeid, 0.0))
