"""What teams and keys are called, for people who read sums."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from deployments.teams.records import Grouping
from deployments.teams.store import Store


@dataclass(frozen=True)
class Names:
    """By id."""

    teams: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)


async def names_of(store: Store, groups: Collection[Grouping]) -> Names:
    """Of those that are grouped by, ended ones too. Raises StoreError."""
    teams = await store.teams(archived=True) if "team" in groups else []
    keys = await store.keys(revoked=True) if "key" in groups else []
    return Names({team.id: team.name for team in teams}, {key.id: key.name for key in keys})
