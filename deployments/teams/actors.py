"""Who changes something, as the audit log names them: see `deployments.teams.records.Audit`."""

from __future__ import annotations

_PERSON = "user:"


def person(user: str) -> str:
    """Somebody who has signed in."""
    return f"{_PERSON}{user}"


def user_of(actor: str) -> str | None:
    """Who that was; None for a key or a command."""
    return actor.removeprefix(_PERSON) if actor.startswith(_PERSON) else None
