"""Who may do what: every row of the table, for every key and every person."""

from __future__ import annotations

from typing import get_args

import pytest

from deployments.errors import ForbiddenError, NotFoundError, UnauthorizedError
from deployments.teams.permissions import RULES, TeamAction, check_admin, check_team, known, teams_for
from deployments.teams.principal import LOCAL, Principal
from deployments.teams.records import Role, Scope, Team
from tests.support.stores import a_key

OWN, OTHER = "team_own", "team_other"

ALLOWED: dict[TeamAction, str] = {
    "team.read": "owner member viewer usage",
    "usage.read": "owner member viewer usage",
    "keys.read": "owner member viewer",
    "members.read": "owner member viewer",
    "keys.create": "owner member",
    "keys.change_own": "owner member",
    "keys.change": "owner",
    "members.change": "owner",
    "terms.accept": "owner",
    "team.change": "",
}


def with_key(*scopes: Scope) -> Principal:
    return Principal(team=Team(id=OWN, name="own", created_at=0), key=a_key(OWN, scopes=scopes), scopes=scopes)


def person(role: Role, team: str = OWN) -> Principal:
    return Principal(team=None, user="alice", roles={team: role})


CALLERS = {
    **{role: person(role) for role in get_args(Role)},
    **{scope: with_key(scope) for scope in ("generate", "usage", "metrics")},
}


def test_every_action_has_a_row() -> None:
    assert set(ALLOWED) == set(RULES) == set(get_args(TeamAction))


@pytest.mark.parametrize("action", ALLOWED)
@pytest.mark.parametrize("caller", CALLERS)
def test_a_row(action: TeamAction, caller: str) -> None:
    principal = CALLERS[caller]
    if caller in ALLOWED[action].split():
        check_team(principal, action, OWN)
        assert teams_for(principal, action) == {OWN}
    else:
        with pytest.raises(ForbiddenError):
            check_team(principal, action, OWN)
        assert teams_for(principal, action) == set()


@pytest.mark.parametrize("action", ALLOWED)
@pytest.mark.parametrize("caller", CALLERS)
def test_another_team_is_not_there(action: TeamAction, caller: str) -> None:
    with pytest.raises(NotFoundError) as refused:
        check_team(CALLERS[caller], action, OTHER)
    assert refused.value.message == "There is no such team."
    assert OTHER not in (teams_for(CALLERS[caller], action) or ())


@pytest.mark.parametrize("admin", [LOCAL, Principal(team=None, key=a_key(None), scopes=("admin",))])
def test_administrators_may_do_all_of_it(admin: Principal) -> None:
    for action in RULES:
        check_team(admin, action, OWN)
        assert teams_for(admin, action) is None
    check_admin(admin)


def test_others_are_no_administrators() -> None:
    for principal in CALLERS.values():
        with pytest.raises(ForbiddenError):
            check_admin(principal)


def test_roles_in_several_teams_are_kept_apart() -> None:
    both = Principal(team=None, user="alice", roles={OWN: "owner", OTHER: "viewer"})
    assert teams_for(both, "members.change") == {OWN}
    assert teams_for(both, "usage.read") == {OWN, OTHER}
    with pytest.raises(ForbiddenError):
        check_team(both, "members.change", OTHER)


@pytest.mark.parametrize(
    ("principal", "action", "told"),
    [
        (person("viewer"), "keys.create", "This needs the role 'member' in the team."),
        (person("member"), "keys.change", "This needs the role 'owner' in the team."),
        (person("owner"), "team.change", "This is for administrators."),
        (with_key("generate"), "usage.read", "This API key may not do that: it lacks the scope 'usage'."),
        (with_key("usage"), "keys.read", "This is for administrators, and for people with the role 'viewer'."),
        (with_key("usage"), "team.change", "This is for administrators."),
    ],
)
def test_who_may_not_is_told_what_they_lack(principal: Principal, action: TeamAction, told: str) -> None:
    with pytest.raises(ForbiddenError) as refused:
        check_team(principal, action, OWN)
    assert refused.value.message == told


def test_nobody_is_known_while_there_is_no_key() -> None:
    with pytest.raises(UnauthorizedError, match="keys create --admin"):
        known(None)
    assert known(LOCAL) is LOCAL


def test_actors() -> None:
    assert LOCAL.actor == "local"
    assert person("owner").actor == "user:alice"
