"""All clients: every file in `known/`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import msgspec

from deployments.clients.client import Client, Section

KNOWN = Path(__file__).parent / "known"


def clients() -> Mapping[str, Client]:
    """By the name of its file, in order of sections. Raises msgspec.ValidationError, which names the file."""
    sections = get_args(Section)
    found = {path.stem: _read(path) for path in KNOWN.glob("*.toml")}
    return dict(sorted(found.items(), key=lambda item: (sections.index(item[1].section), item[1].order, item[0])))


def _read(path: Path) -> Client:
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Client)
    except msgspec.DecodeError as error:
        raise msgspec.ValidationError(f"{path.name}: {error}") from error
