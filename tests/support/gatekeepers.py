"""Keys without a database."""

from __future__ import annotations

from dataclasses import dataclass, field

from deployments.errors import UnauthorizedError
from deployments.teams.keys import last_four, new_key
from deployments.teams.principal import Principal
from deployments.teams.records import Key, Scope, Team


def bearer(key: str) -> dict[str, str]:
    """Headers of who has this key."""
    return {"authorization": f"Bearer {key}"}


@dataclass
class Keyring:
    """A gatekeeper over keys that a test has made. closed: they are asked for."""

    closed: bool = True
    principals: dict[str, Principal] = field(default_factory=dict)
    asked: int = 0

    async def principal(self, key: str) -> Principal:
        self.asked += 1
        if key not in self.principals:
            raise UnauthorizedError("This API key is not known.")
        return self.principals[key]

    def add(self, team: str | None = "red", scopes: tuple[Scope, ...] = ("generate",)) -> str:
        key = new_key()
        stored = Key(
            id=f"key_{len(self.principals)}",
            team_id=team,
            name="",
            digest=b"",
            pepper_id="",
            last_four=last_four(key),
            scopes=scopes,
            created_at=0.0,
            created_by="local",
        )
        found = None if team is None else Team(id=team, name=team, created_at=0.0)
        self.principals[key] = Principal(team=found, key=stored, scopes=scopes)
        return key
