"""Who asks: what is known of a request from its key, or of a person from their session."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, get_args

import msgspec

from deployments.teams.records import Key, Role, Scope, ServiceClass, Team

_CLASSES = get_args(ServiceClass)

_SCOPE_KEY = "starcoder.principal"


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """team: on whose account; None for administrators. key: by which; None for a person's session, and for a command
    on the server's machine.

    user, roles: of a person who has signed in, by team.
    """

    team: Team | None
    key: Key | None = None
    user: str | None = None
    roles: dict[str, Role] = {}
    scopes: tuple[Scope, ...] = ()

    @property
    def actor(self) -> str:
        """For the audit log, see `deployments.teams.records.Audit`."""
        if self.key is not None:
            return f"key:{self.key.id}"
        return "local" if self.user is None else f"user:{self.user}"

    @property
    def is_admin(self) -> bool:
        return "admin" in self.scopes

    @property
    def class_number(self) -> int:
        """0 is served first."""
        return _CLASSES.index(self.team.service_class) if self.team is not None else 1


LOCAL = Principal(team=None, scopes=("admin",))
"""Whoever runs commands on the server's machine."""


def set_principal(scope: MutableMapping[str, Any], principal: Principal) -> None:
    scope[_SCOPE_KEY] = principal


def principal_of(scope: MutableMapping[str, Any]) -> Principal | None:
    """Of a request, as the door found it; None while the server asks nobody for a key."""
    found = scope.get(_SCOPE_KEY)
    return found if isinstance(found, Principal) else None
