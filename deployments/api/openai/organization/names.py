"""What teams and keys are called, for people who read sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deployments.teams.records import UsageRow

if TYPE_CHECKING:
    from deployments.teams.store import Store


@dataclass(frozen=True)
class Names:
    """By id."""

    teams: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)


async def names_in(store: Store, rows: Sequence[UsageRow]) -> Names:
    """Of the teams and keys that occur, ended ones too. Raises StoreError."""
    teams = {row.team_id for row in rows if row.team_id is not None}
    keys = {row.key_id for row in rows if row.key_id is not None}
    return Names(await store.team_names(teams) if teams else {}, await store.key_names(keys) if keys else {})
