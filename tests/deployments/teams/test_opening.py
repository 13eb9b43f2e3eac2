"""Where the database's secret and the journal are, from what the settings say."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.team_settings import TeamsSettings
from deployments.teams import opening
from model.config import ConfigError
from tests.support.stores import Clock

SERVER = "postgresql+asyncpg://teams@host/teams"


def sqlite(path: Path, **more: object) -> TeamsSettings:
    return TeamsSettings(database=f"sqlite+aiosqlite:///{path}", **more)  # type: ignore[arg-type]


def test_beside_an_sqlite_file_unless_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    beside, named = sqlite(tmp_path / "t.db"), {"pepper_file": "~/pepper", "journal_directory": "~/usage"}
    assert opening.pepper_file(beside) == tmp_path / "t.db.pepper"
    assert opening.journal_directory(beside) == tmp_path / "journal"
    for settings in sqlite(tmp_path / "other" / "t.db", **named), TeamsSettings(database=SERVER, **named):
        assert opening.pepper_file(settings) == tmp_path / "pepper"
        assert opening.journal_directory(settings) == tmp_path / "usage"


def test_a_server_has_no_place_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    settings = TeamsSettings(database=SERVER)
    assert opening.journal_directory(settings) == tmp_path / "starcoder-serve" / "journal"
    with pytest.raises(ConfigError, match=r"teams\.pepper_file is needed"):
        opening.pepper_file(settings)


def test_a_pepper_is_made_only_where_it_was_not_named(tmp_path: Path) -> None:
    """Other nodes may have it."""
    with pytest.raises(ConfigError):
        opening.pepper(sqlite(tmp_path / "t.db"))
    made = opening.pepper(sqlite(tmp_path / "t.db"), make=True)
    assert opening.pepper(sqlite(tmp_path / "t.db")) == made
    with pytest.raises(ConfigError):
        opening.pepper(sqlite(tmp_path / "t.db", pepper_file=tmp_path / "named"), make=True)


async def test_a_database_is_made_only_where_somebody_says_so(tmp_path: Path) -> None:
    settings = sqlite(tmp_path / "teams" / "t.db")
    assert await opening.open_store(settings) is None
    assert not (tmp_path / "teams").exists()
    store = await opening.open_store(settings, make=True, clock=Clock(5.0))
    assert store is not None
    assert (await store.create_team("local", "a")).created_at == 5.0
    await store.close()
    store = await opening.open_store(settings)
    assert store is not None
    assert [team.name for team in await store.teams()] == ["a"]
    await store.close()
