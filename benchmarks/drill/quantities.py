"""Values in the units of the boards' panels, for people."""

from __future__ import annotations

_SUFFIXES = {"reqps": "/s", "ops": "/s", "x": "×", "Bps": " B/s", "flops": " FLOP/s", "bytes": " B", "percent": " %"}


def quantity(value: float | None, unit: str) -> str:
    """As Grafana's units would have it, to two or three digits."""
    if value is None:
        return "nothing"
    if unit == "percentunit":
        return f"{_number(100 * value)} %"
    if unit == "s":
        return f"{_number(1000 * value)} ms" if value < 1 else f"{_number(value)} s"
    return _number(value) + _SUFFIXES.get(unit, "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.2g}"
