"""A database with teams, a key and a budget each: what a server needs to be closed, and to meter all that it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deployments.team_settings import TeamsSettings
from deployments.teams.keys import Pepper, last_four, new_key
from deployments.teams.money import picodollars
from deployments.teams.opening import pepper
from deployments.teams.records import Budget, Key, Limits
from deployments.teams.store import Store

PLENTY = 10**9


@dataclass(frozen=True)
class Closed:
    """keys: of the teams, in their order. environment: of the server."""

    keys: tuple[str, ...]
    environment: dict[str, str]


def closed(directory: Path, teams: Sequence[str] = ("measured",)) -> Closed:
    """Everything that costs something is on: limits of each kind, and a hard budget; none of them is reached."""
    settings = TeamsSettings(database=f"sqlite+aiosqlite:///{directory / 'teams.sqlite'}")
    keys = {team: new_key() for team in teams}
    asyncio.run(_fill(settings, keys))
    return Closed(tuple(keys.values()), {"STARCODER_TEAMS__DATABASE": settings.database})


async def _fill(settings: TeamsSettings, keys: Mapping[str, str]) -> None:
    store = await Store.open(settings.database)
    try:
        for name, key in keys.items():
            await _add(store, pepper(settings, make=True), name, key)
    finally:
        await store.close()


async def _add(store: Store, secret: Pepper, name: str, key: str) -> None:
    limits = Limits(requests_per_minute=PLENTY, tokens_per_minute=PLENTY, parallel=PLENTY)
    budget = Budget(amount=picodollars("1000000"), hard=True)
    team = await store.create_team("local", name, limits=limits, budget=budget)
    await store.add_key(
        "local",
        Key(
            id=f"key_{name}",
            team_id=team.id,
            name=name,
            digest=secret.digest(key),
            pepper_id=secret.id,
            last_four=last_four(key),
            scopes=("generate",),
            created_at=time.time(),
            created_by="local",
            limits=limits,
        ),
    )
