"""Keys and whose they are, as administrators' routes show them, field by field and without a database."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from deployments.api.openai.organization import admin_api_keys, all_keys, api_keys
from deployments.api.openai.organization.people import ProjectUser
from deployments.api.openai.organization.projects import Project
from deployments.teams.administration import NewKey
from deployments.teams.records import Budget, Key, Limits, Member, Spent, Team

NOW = 1_700_000_000


def key_of(created_by: str = "local", team_id: str | None = "team_a") -> Key:
    return Key(
        id="key_a",
        team_id=team_id,
        name="ci",
        digest=b"secret",
        pepper_id="p",
        last_four="wxyz",
        scopes=("generate", "usage"),
        created_at=NOW + 0.5,
        created_by=created_by,
        limits=Limits(requests_per_minute=1, tokens_per_minute=2, parallel=3),
        expires_at=NOW + 60.5,
    )


def member(role: Any, **fields: Any) -> dict[str, Member]:
    return {"ada": Member(user="ada", team_id="team_a", role=role, created_at=NOW - 9.5, **fields)}


SHOWN = {
    "id": "key_a",
    "created_at": NOW,
    "name": "ci",
    "last_four": "wxyz",
    "redacted_value": "sk-sc-...wxyz",
    "expires_at": NOW + 60,
}
ACCOUNT = {"id": "key_a", "created_at": NOW, "name": "ci", "role": "member"}


@pytest.mark.parametrize("made_by", ["local", "key:key_b", "admin:ada"])
def test_a_key_that_a_program_has(made_by: str) -> None:
    shown = api_keys._answer(key_of(made_by), member("owner")).model_dump()
    owner = shown.pop("owner")
    assert shown == {
        **SHOWN,
        "object": "organization.project.api_key",
        "created_by": made_by,
        "project_id": "team_a",
        "scopes": ["generate", "usage"],
        "requests_per_minute": 1,
        "tokens_per_minute": 2,
        "parallel": 3,
        "owner_project_access": "active",
    }
    assert (owner["type"], owner["user"]) == ("service_account", None)
    assert owner["service_account"].items() >= ACCOUNT.items()


@pytest.mark.parametrize(
    ("members", "person", "access"),
    [
        (member("owner", name="Ada", email="a@b"), ("Ada", "owner", "a@b", NOW - 10), "active"),
        (member("member"), ("ada", "member", "", NOW - 10), "active"),
        (member("viewer"), ("ada", "viewer", "", NOW - 10), "inactive"),
        ({}, ("ada", "none", "", 0), "inactive"),
    ],
)
def test_a_key_that_a_person_has(members: dict[str, Member], person: tuple[Any, ...], access: str) -> None:
    shown = api_keys._answer(key_of("user:ada"), members)
    assert (shown.owner.type, shown.owner.service_account, shown.owner_project_access) == ("user", None, access)
    assert shown.owner.user is not None
    assert shown.owner.user.id == "ada"
    assert (shown.owner.user.name, shown.owner.user.role, shown.owner.user.email) == person[:3]
    assert shown.owner.user.created_at == person[3]


def test_a_new_key_has_its_value_beside_the_rest() -> None:
    new = api_keys._new(NewKey(key_of(), "sk-sc-value"), {})
    assert new.model_dump() == {**api_keys._answer(key_of(), {}).model_dump(), "value": "sk-sc-value"}


def test_an_administrators_key() -> None:
    shown = admin_api_keys._answer(key_of("user:ada", team_id=None)).model_dump()
    assert shown.items() >= {**SHOWN, "scopes": ["generate", "usage"]}.items()
    assert shown["object"] == "organization.admin_api_key"
    assert shown["owner"]["id"] == "user:ada"


def test_any_key_with_its_team() -> None:
    limits = {"requests_per_minute": 1, "tokens_per_minute": 2, "parallel": 3}
    rest = {key: value for key, value in SHOWN.items() if key != "redacted_value"}
    for team_id, name in (("team_a", "search"), (None, None)):
        shown = all_keys._answer(key_of(team_id=team_id), name).model_dump()
        named = {"project_id": team_id, "project_name": name, "created_by": "local", "scopes": ["generate", "usage"]}
        assert shown.items() >= {**rest, **limits, **named}.items()


def test_a_team_with_all_that_it_has() -> None:
    team = Team(
        id="team_a",
        name="search",
        created_at=NOW + 0.5,
        weight=2.5,
        service_class="batch",
        limits=Limits(requests_per_minute=1, tokens_per_minute=2, parallel=3),
        budget=Budget(amount=10**12),
        terms_version="7",
        terms_accepted_by="user:ada",
        terms_accepted_at=NOW + 1.5,
    )
    spent = {"team_a": Spent(period_start=NOW, amount=10**12), "team_b": Spent(period_start=NOW, amount=1)}
    shown = Project.of(team, spent).model_dump()
    assert shown.pop("budget")["spent_usd"] == "1"
    assert shown == {
        "id": "team_a",
        "object": "organization.project",
        "created_at": NOW,
        "name": "search",
        "status": "active",
        "archived_at": None,
        "weight": 2.5,
        "service_class": "batch",
        "requests_per_minute": 1,
        "tokens_per_minute": 2,
        "parallel": 3,
        "terms_version": "7",
        "terms_accepted_at": NOW + 1,
        "terms_accepted_by": "user:ada",
    }
    archived = Project.of(msgspec.structs.replace(team, archived_at=NOW + 2.5, budget=None), spent)
    assert (archived.status, archived.archived_at, archived.budget) == ("archived", NOW + 2, None)


def test_a_person_of_a_team() -> None:
    (ada,) = member("owner", name="Ada", email="a@b").values()
    shown = ProjectUser.of(ada).model_dump()
    assert shown.items() >= {"id": "ada", "added_at": NOW - 10, "role": "owner", "email": "a@b", "name": "Ada"}.items()
