"""Who changes something, as the audit log names them: see `deployments.teams.records.Audit`."""

from __future__ import annotations

PROVIDER = "provider"
"""The identity provider, as somebody signs in."""

_PERSON = "user:"
_ADMINISTRATOR = "admin:"


def person(user: str) -> str:
    """Somebody who has signed in."""
    return f"{_PERSON}{user}"


def administrator(user: str) -> str:
    """As who made a key: a person, of a team in which they make none for themselves."""
    return f"{_ADMINISTRATOR}{user}"


def user_of(actor: str) -> str | None:
    """Who that was; None for a key, a command or the provider."""
    return actor.removeprefix(_PERSON) if actor.startswith(_PERSON) else None
