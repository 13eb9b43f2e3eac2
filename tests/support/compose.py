"""A compose file as `docker compose` reads it: variables put in, other files laid over it.

The part of https://github.com/compose-spec/compose-spec that compose.yaml uses; another form of a variable is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

Compose = dict[str, Any]

_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def read(*files: Path, variables: Mapping[str, str]) -> Compose:
    """The files, each over those before it. Raises ValueError for a `$` that is no `${NAME:-default}`."""
    merged: Compose = {}
    for file in files:
        merged = _merge(merged, _interpolate(yaml.safe_load(file.read_text()), variables))
    return merged


def _interpolate(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _interpolate(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolate(item, variables) for item in value]
    if not isinstance(value, str):
        return value
    said = _VARIABLE.sub(lambda found: variables.get(found[1]) or found[2], value)
    if "$" in said:
        raise ValueError(f"{value!r} holds a variable that this does not know")
    return said


def _merge(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {key: _merge(below[key], item) if key in below else item for key, item in above.items()}
    return below + above if isinstance(below, list) and isinstance(above, list) else above
