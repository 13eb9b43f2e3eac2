"""Sizes in bytes as people write them, in settings and options: `24GiB`, `24Gi` as Kubernetes has it, `1.5GB`."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator

from deployments.written_as import WrittenAs

_PREFIXES = "kmgtp"
_UNITS = {"b": 1}
_UNITS |= {f"{prefix}b": 1000**power for power, prefix in enumerate(_PREFIXES, 1)}
_UNITS |= {f"{prefix}i{b}": 1024**power for power, prefix in enumerate(_PREFIXES, 1) for b in ("", "b")}
_NAMED = {unit.upper().replace("I", "i"): factor for unit, factor in _UNITS.items() if unit.endswith("b")}
_WRITTEN = re.compile(r"\s*(\d+(?:\.\d+)?(?:e\+?\d{1,2})?)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)

_BYTES_FROM = 1 << 20
"""So large a number without a unit can be nothing but bytes: nobody has so many GiB."""


_MOST = 1 << 60
"""An exbibyte: no machine has so much."""


def size(written: str | float, bytes_from: int = _BYTES_FROM) -> int:
    """Bytes, a broken one left out. Raises ValueError, with a suggestion, for what is no size or could be two.

    bytes_from: from here on a number without a unit is one of bytes.
    """
    match = _WRITTEN.fullmatch(str(written))
    if match is None:
        raise ValueError(f"{written!r} is no size such as 24GiB or 1.5GB")
    number, unit = Decimal(match[1]), match[2].lower()
    if unit in _UNITS or (not unit and number >= bytes_from):
        bytes = number * _UNITS.get(unit, 1)
        if bytes > _MOST:
            raise ValueError(f"{written!r} is a size that no machine has")
        return int(bytes)
    if unit and unit not in _PREFIXES:
        raise ValueError(f"{written!r} is no size such as 24GiB or 1.5GB")
    larger = (unit or "g").upper()
    raise ValueError(f"{written!r} may mean two sizes: write {match[1]}{larger}iB or {match[1]}{larger}B")


def shown(size: int) -> str:
    """As `size` reads it, exactly and as shortly as can be."""
    whole = [f"{size // factor}{unit}" for unit, factor in _NAMED.items() if size % factor == 0]
    return min(whole, key=len)


def _of_bytes(written: Any) -> Any:
    return size(written, bytes_from=0) if isinstance(written, str) else written


def _of_any(written: Any) -> Any:
    # pydantic says what is wrong with truth values, lists and the like.
    return size(written) if isinstance(written, str | int | float) and not isinstance(written, bool) else written


Size = Annotated[int, BeforeValidator(_of_any), WrittenAs("SIZE", shown)]
"""A setting that is a size. A small number alone is refused: it may be meant in GiB."""

ByteCount = Annotated[int, BeforeValidator(_of_bytes), WrittenAs("SIZE", shown)]
"""A size in a setting whose name says bytes: a number alone is one of these."""
