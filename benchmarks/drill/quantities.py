"""Values in the units of the boards' panels, for people."""

from __future__ import annotations

_SUFFIXES = {"reqps": "/s", "ops": "/s", "x": "×", "Bps": " B/s", "flops": " FLOP/s", "bytes": " B", "percent": " %"}
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def quantity(value: float | None, unit: str) -> str:
    """Of a unit that Grafana knows by this id, with two or three digits."""
    if value is None:
        return "nothing"
    if unit == "percentunit":
        return f"{_number(100 * value)} %"
    if unit == "s":
        return f"{_number(1000 * value)} ms" if value < 1 else f"{_number(value)} s"
    suffix = _SUFFIXES.get(unit, "")
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            return f"{_number(value / size)} {prefix}{suffix.lstrip()}"
    return _number(value) + suffix


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.2g}"
