"""Values as people read them."""

from __future__ import annotations

import pytest

from benchmarks.drill.quantities import quantity


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "short", "nothing"),
        (0.0, "percentunit", "0 %"),
        (0.256, "percentunit", "26 %"),
        (0.0421, "s", "42 ms"),
        (12.34, "s", "12 s"),
        (1.0, "s", "1 s"),
        (2.345, "reqps", "2.3/s"),
        (14.4, "x", "14×"),
        (1234.5, "bytes", "1.2 kB"),
        (23.4e9, "bytes", "23 GB"),
        (12345.6, "reqps", "12 k/s"),
        (44_321.0, "short", "44 k"),
        (1.02, "short", "1"),
        (939.4, "short", "939"),
        (2000.0, "short", "2 k"),
    ],
)
def test_quantities(value: float | None, unit: str, text: str) -> None:
    assert quantity(value, unit) == text
