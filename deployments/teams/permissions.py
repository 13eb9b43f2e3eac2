"""Who may do what with which team: one table, for keys and for people.

Administrators may do all of it. A key is of one team, a person has a role in some. What belongs to another team is not
there for them: 404, so that nobody learns of it.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from deployments.errors import ForbiddenError, NotFoundError, UnauthorizedError
from deployments.teams.principal import Principal
from deployments.teams.records import Role, Scope

TeamAction = Literal[
    "team.read",
    "usage.read",
    "keys.read",
    "members.read",
    "keys.create",
    "keys.change_own",
    "keys.change",
    "members.change",
    "terms.accept",
    "team.change",
]
"""keys.change_own: of a key that they made themselves. team.change: weight, class, limits, budget, name, its end."""


class Rule(NamedTuple):
    """role: the least of a person. scope: of a key of the team. None: not for these."""

    role: Role | None
    scope: Scope | None


RULES: Final[dict[TeamAction, Rule]] = {
    "team.read": Rule("viewer", "usage"),
    "usage.read": Rule("viewer", "usage"),
    "keys.read": Rule("viewer", None),
    "members.read": Rule("viewer", None),
    "keys.create": Rule("member", None),
    "keys.change_own": Rule("member", None),
    "keys.change": Rule("owner", None),
    "members.change": Rule("owner", None),
    "terms.accept": Rule("owner", None),
    "team.change": Rule(None, None),
}

_RANKS: Final[dict[Role, int]] = {"viewer": 0, "member": 1, "owner": 2}


def check_team(principal: Principal, action: TeamAction, team_id: str) -> None:
    """Raises NotFoundError for a team that is not theirs, ForbiddenError for what they may not do with it."""
    if principal.is_admin:
        return
    role, own = principal.roles.get(team_id), principal.team is not None and principal.team.id == team_id
    if role is None and not own:
        raise no_team()
    rule = RULES[action]
    by_role = role is not None and rule.role is not None and _RANKS[role] >= _RANKS[rule.role]
    if not (by_role or (own and rule.scope in principal.scopes)):
        raise ForbiddenError(_refusal(rule, principal))


def teams_for(principal: Principal, action: TeamAction) -> frozenset[str] | None:
    """The teams with which they may do it; None: all there are."""
    if principal.is_admin:
        return None
    rule = RULES[action]
    teams = {team_id for team_id, role in principal.roles.items() if rule.role and _RANKS[role] >= _RANKS[rule.role]}
    if principal.team is not None and rule.scope in principal.scopes:
        teams.add(principal.team.id)
    return frozenset(teams)


def check_admin(principal: Principal) -> None:
    """Raises ForbiddenError for all but administrators."""
    if not principal.is_admin:
        raise ForbiddenError("This is for administrators.")


def known(principal: Principal | None) -> Principal:
    """Raises UnauthorizedError for somebody of whom nothing is known: a server that asks for no key yet."""
    if principal is None:
        raise UnauthorizedError(
            "This route is for those with a key, and there is none yet: `starcoder keys create --admin`, on the "
            "server's machine, makes the first one."
        )
    return principal


def no_team() -> NotFoundError:
    return NotFoundError("There is no such team.")


def _refusal(rule: Rule, principal: Principal) -> str:
    if principal.user is not None and rule.role is not None:
        return f"This needs the role {rule.role!r} in the team."
    if principal.user is None and rule.scope is not None:
        return f"This API key may not do that: it lacks the scope {rule.scope!r}."
    return "This is for administrators" + (
        "." if rule.role is None else f", and for people with the role {rule.role!r}."
    )
