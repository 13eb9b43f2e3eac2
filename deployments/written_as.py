"""How a setting is written on a command line: what stands for its value in the help, and how its default is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class WrittenAs:
    """Beside a type, in `Annotated`. metavar: what stands for a value. shown: a value as it is typed."""

    metavar: str
    shown: Callable[[Any], str] = str
