"""What is said of settings that cannot be."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import ValidationError

from deployments.spelling import did_you_mean


def explain(error: ValidationError, known: Collection[str]) -> str:
    """A validation error in one line a setting. known: names of settings, those of settings within as `api.name`."""
    lines = []
    for problem in error.errors(include_url=False):
        name, given = ".".join(str(part) for part in problem["loc"]), problem["input"]
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"unknown setting{did_you_mean(name, known)}"
        elif problem["type"] != "value_error" and isinstance(given, str | int | float):
            name = f"{name}={given}"
        lines.append(f"{name}: {message}" if name else message)
    return "; ".join(lines)
