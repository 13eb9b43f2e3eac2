"""A pepper that was lost is never replaced while there are keys that need it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.team_settings import TeamsSettings
from deployments.teams import opening
from deployments.teams.administration import Administration, default_price
from deployments.teams.store import Store
from model.config import ConfigError


async def test_a_lost_pepper_is_not_made_anew(tmp_path: Path) -> None:
    settings = TeamsSettings(database=f"sqlite+aiosqlite:///{tmp_path / 'teams.sqlite'}")
    store = await Store.open(settings.database)
    try:
        administration = Administration(store, lambda make: opening.pepper(settings, make), default_price(settings))

        async def make() -> str:
            return (await administration.create_key("local", team_id=None, name="", scopes=("admin",))).key.id

        first = await make()
        file = opening.pepper_file(settings)
        kept = file.read_bytes()
        file.unlink()
        with pytest.raises(ConfigError, match="No such file"):
            await make()
        assert not file.exists()
        file.write_bytes(b"z" * 64)
        file.chmod(0o600)
        with pytest.raises(ConfigError, match="not the one"):
            await make()
        file.write_bytes(kept)
        second = await make()
        file.unlink()
        for key in (first, second):
            await store.revoke_key("local", key)
        await make()
        assert file.read_bytes() != kept, "none of the old keys is good any more"
    finally:
        await store.close()
