"""Limits of teams and keys, as columns of their rows."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from sqlalchemy import RowMapping

from deployments.teams.records import Limits
from deployments.teams.store_errors import InvalidChangeError

_LARGEST = 2**63 - 1  # of a column


def limits_row(limits: Limits) -> Mapping[str, int | None]:
    """Raises InvalidChangeError for what limits nothing, or is too large for a column."""
    row: dict[str, int | None] = msgspec.structs.asdict(limits)
    for name, value in row.items():
        if value is not None:
            checked_number(name, value)
    return row


def limits_of(row: RowMapping) -> Limits:
    return Limits(**{name: row[name] for name in Limits.__struct_fields__})


def checked_number(name: str, value: int) -> None:
    """Raises InvalidChangeError."""
    if not 0 <= value <= _LARGEST:
        raise InvalidChangeError(f"{name} of {value}: it is from 0 to {_LARGEST}")
