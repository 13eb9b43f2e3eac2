"""What is said of settings that are none, or cannot be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic import ValidationError


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that names the one of `known` which is nearest; empty where none is near."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def explain(error: ValidationError, known: Iterable[str]) -> str:
    """A validation error in one line a setting. known: names of settings."""
    lines = []
    for problem in error.errors(include_url=False):
        name = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"unknown setting{'' if '.' in name else did_you_mean(name, known)}"
        lines.append(f"{name}: {message}" if name else message)
    return "; ".join(lines)
