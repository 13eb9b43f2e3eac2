"""Who puts whom into a team, and what they learn of people by it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from deployments.teams.records import Member
from deployments.teams.store import Store
from tests.deployments.api.openai.organization.test_routes import key_of, person
from tests.support.gatekeepers import Keyring

ALICE = "alice@corp.example"


def users(team_id: str) -> str:
    return f"/v1/organization/projects/{team_id}/users"


async def test_an_address_is_the_providers_word_alone(
    client: httpx.AsyncClient, keyring: Keyring, store: Store
) -> None:
    """Whoever could write one would get somebody of theirs into another team."""
    red, blue = [await store.create_team("local", name) for name in ("red", "blue")]
    admin = key_of(keyring, None, "admin")
    await store.set_member("local", Member(user="mallory", team_id=red.id, role="owner"))
    mallory = person(keyring, "mallory", **{red.id: "owner"})
    for caller in (mallory, admin):
        planted = {"user_id": "mallorys-second", "email": ALICE, "role": "viewer"}
        assert (await client.post(users(red.id), headers=caller, json=planted)).status_code == 400
    made = await client.post(users(red.id), headers=mallory, json={"user_id": "mallorys-second", "role": "viewer"})
    assert (made.status_code, made.json()["email"]) == (200, None)
    answer = await client.post(users(blue.id), headers=admin, json={"email": ALICE, "role": "owner"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "user_id")
    assert await store.members(blue.id) == []


async def test_an_owner_learns_nothing_of_other_teams_people(
    client: httpx.AsyncClient, keyring: Keyring, store: Store
) -> None:
    red, blue = [await store.create_team("local", name) for name in ("red", "blue")]
    known: dict[str, Any] = {"user": "sub-of-dave", "role": "member", "email": "dave@corp.example", "name": "Dave"}
    await store.set_member("local", Member(team_id=blue.id, **known))
    await store.set_member("local", Member(user="carol", team_id=red.id, role="owner"))
    owner = person(keyring, "carol", **{red.id: "owner"})
    answers = [
        (await client.post(users(red.id), headers=owner, json={"email": email, "role": "viewer"})).json()
        for email in ("dave@corp.example", "nobody@corp.example")
    ]
    assert answers[0] == answers[1]
    assert answers[0]["error"]["param"] == "user_id"
    assert [member.user for member in await store.members(red.id)] == ["carol"]
    by_id = (await client.post(users(red.id), headers=owner, json={"user_id": "sub-of-dave", "role": "viewer"})).json()
    assert (by_id["id"], by_id["email"], by_id["name"]) == ("sub-of-dave", None, None)
    await store.set_member("local", Member(team_id=red.id, **known))
    again = (await client.post(users(red.id), headers=owner, json={"user_id": "sub-of-dave", "role": "owner"})).json()
    assert (again["role"], again["email"], again["name"]) == ("owner", "dave@corp.example", "Dave")


async def test_administrators_find_people_by_their_address(
    client: httpx.AsyncClient, keyring: Keyring, store: Store
) -> None:
    red, blue = [await store.create_team("local", name) for name in ("red", "blue")]
    await store.set_member("local", Member(user="alice", team_id=red.id, role="member", email=ALICE, name="Alice"))
    admin, body = key_of(keyring, None, "admin"), {"email": ALICE, "role": "owner"}
    added = (await client.post(users(blue.id), headers=admin, json=body)).json()
    assert (added["id"], added["name"]) == ("alice", "Alice")
    await store.set_member("local", Member(user="another", team_id=red.id, role="member", email=ALICE))
    answer = await client.post(users(blue.id), headers=admin, json=body)
    assert (answer.status_code, "more than one" in answer.text) == (400, True)


@pytest.mark.parametrize("body", [{}, {"email": None, "user_id": None}])
async def test_nobody_is_meant(
    client: httpx.AsyncClient, keyring: Keyring, store: Store, body: dict[str, None]
) -> None:
    team = await store.create_team("local", "red")
    answer = await client.post(users(team.id), headers=key_of(keyring, None, "admin"), json={"role": "member", **body})
    assert answer.status_code == 400
    assert await store.members() == []


async def test_who_was_put_out_a_moment_ago(client: httpx.AsyncClient, keyring: Keyring, store: Store) -> None:
    """The door knows of it two seconds later; the database now."""
    team = await store.create_team("local", "red")
    eve = person(keyring, "eve", **{team.id: "owner"})
    for path, body in (("users", {"user_id": "second", "role": "owner"}), ("api_keys", {"name": "souvenir"})):
        answer = await client.post(f"/v1/organization/projects/{team.id}/{path}", headers=eve, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "insufficient_permissions")
    assert (await store.members(), await store.keys()) == ([], [])
