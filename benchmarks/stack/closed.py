"""A database with one team, a key and a budget: what a server needs to be closed, and to meter all that it does."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from deployments.team_settings import TeamsSettings
from deployments.teams.keys import last_four, new_key
from deployments.teams.money import picodollars
from deployments.teams.opening import pepper
from deployments.teams.records import Budget, Key, Limits
from deployments.teams.store import Store

PLENTY = 10**9


@dataclass(frozen=True)
class Closed:
    """key: the one that gets in. environment: of the server."""

    key: str
    environment: dict[str, str]


def closed(directory: Path) -> Closed:
    """Everything that costs something is on: limits of each kind, and a hard budget; none of them is reached."""
    settings = TeamsSettings(database=f"sqlite+aiosqlite:///{directory / 'teams.sqlite'}")
    key = new_key()
    asyncio.run(_fill(settings, key))
    return Closed(key, {"STARCODER_TEAMS__DATABASE": settings.database})


async def _fill(settings: TeamsSettings, key: str) -> None:
    secret = pepper(settings, make=True)
    store = await Store.open(settings.database)
    try:
        limits = Limits(requests_per_minute=PLENTY, tokens_per_minute=PLENTY, parallel=PLENTY)
        budget = Budget(amount=picodollars("1000000"), hard=True)
        team = await store.create_team("local", "measured", limits=limits, budget=budget)
        await store.add_key(
            "local",
            Key(
                id="key_measured",
                team_id=team.id,
                name="measured",
                digest=secret.digest(key),
                pepper_id=secret.id,
                last_four=last_four(key),
                scopes=("generate",),
                created_at=time.time(),
                created_by="local",
                limits=limits,
            ),
        )
    finally:
        await store.close()
