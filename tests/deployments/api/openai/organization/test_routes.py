"""Who gets what from the routes of administrators, and how they fail."""

from __future__ import annotations

import csv
import io
import uuid
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Route

from deployments.api.openai.organization.routes import organization_router
from deployments.api.openai.organization.usage_csv import safe_cell
from deployments.ingress import create_app
from deployments.teams.administration import Administration
from deployments.teams.principal import Principal
from deployments.teams.records import Accepted, Member, Role, Team
from deployments.teams.store import Store
from deployments.teams.store_errors import AuditBrokenError, StoreUnavailableError
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import FakeBackend
from tests.support.gatekeepers import Keyring, bearer
from tests.support.request_bodies import posts
from tests.support.stores import NOON, Clock, a_key, an_entry

DAY = 86_400
BODIES: dict[str, dict[str, Any]] = {
    "/projects": {"name": "new"},
    "/projects/{project_id}/api_keys": {"name": "k"},
    "/projects/{project_id}/service_accounts": {"name": "k"},
    "/projects/{project_id}/users": {"user_id": "bob", "role": "member"},
    "/projects/{project_id}/users/{user_id:anytext}": {"role": "member"},
    "/projects/{project_id}/spend_limit": {"threshold_amount": 1, "currency": "USD", "interval": "month"},
    "/projects/{project_id}/terms": {"version": "1"},
    "/admin_api_keys": {"name": "k"},
    "/prices": {"model": "m", "input_usd_per_1k": "1", "output_usd_per_1k": "1"},
}
ROUTES = [
    (method, route.path.removeprefix("/v1/organization"))
    for route in organization_router().routes
    if isinstance(route, Route)
    for method in sorted(route.methods or ())
]
OF_A_TEAM = [(method, path) for method, path in ROUTES if "{project_id}" in path]
OF_ADMINS = [
    (method, path)
    for method, path in ROUTES
    if path.startswith(("/admin_api_keys", "/api_keys", "/users", "/audit_logs"))
    or (method, path) == ("POST", "/prices")
]


def key_of(keyring: Keyring, team: Team | None, *scopes: Any) -> dict[str, str]:
    """A key that the door knows, of a team that the database has."""
    value = keyring.add(None if team is None else team.id, scopes)
    known = keyring.principals[value]
    keyring.principals[value] = Principal(team=team, key=known.key, scopes=scopes)
    return bearer(value)


def person(keyring: Keyring, user: str, **roles: Role) -> dict[str, str]:
    value = keyring.add(None)
    keyring.principals[value] = Principal(team=None, user=user, roles=roles)
    return bearer(value)


async def send(
    client: httpx.AsyncClient, method: str, path: str, headers: dict[str, str], project: str = "", key: str = "key_x"
) -> httpx.Response:
    filled = path.replace("{project_id}", project)
    for name, value in (("key_id", key), ("account_id", key), ("rate_limit_id", "all")):
        filled = filled.replace(f"{{{name}}}", value)
    filled = filled.replace("{user_id:anytext}", "alice")
    body = BODIES.get(path, {}) if method == "POST" else None
    parameters = {"start_time": "0"} if filled in ("/usage/completions", "/costs", "/usage.csv") else {}
    return await client.request(method, f"/v1/organization{filled}", headers=headers, json=body, params=parameters)


def test_the_lists_have_all_routes() -> None:
    mixed = {"/projects", "/usage/completions", "/costs", "/usage.csv", "/prices", "/me"}
    assert {path for _, path in ROUTES} == mixed | {path for _, path in OF_A_TEAM + OF_ADMINS}
    assert len(OF_A_TEAM) > 20


async def test_another_team_is_not_there(client: httpx.AsyncClient, keyring: Keyring, store: Store) -> None:
    """With its id or its name, the answer is that of a team that never was."""
    own, foreign = await store.create_team("local", "own"), await store.create_team("local", "foreign")
    callers = [key_of(keyring, own, "generate", "usage"), person(keyring, "alice", **{own.id: "owner"})]
    before = await store.snapshot()
    for method, path in OF_A_TEAM:
        for caller in callers:
            missing = await send(client, method, path, caller, "team_nobody")
            assert missing.status_code == 404, (method, path, missing.text)
            for name in (foreign.id, foreign.name):
                answer = await send(client, method, path, caller, name)
                assert (answer.status_code, answer.json()) == (404, missing.json()), (method, path)
    assert before is not None
    assert await store.snapshot(before.version) is None, "something was changed"


async def test_another_teams_key_is_not_there(client: httpx.AsyncClient, keyring: Keyring, store: Store) -> None:
    """The answer is that of a key that never was."""
    own, foreign = await store.create_team("local", "own"), await store.create_team("local", "foreign")
    key = await store.add_key("local", a_key(foreign.id))
    for method, path in OF_A_TEAM:
        if "{key_id}" not in path and "{account_id}" not in path:
            continue
        for caller in (person(keyring, "alice", **{own.id: "owner"}), key_of(keyring, None, "admin")):
            told = set()
            for key_id in (key.id, f"key_{uuid.uuid4()}"):
                answer = await send(client, method, path, caller, own.id, key_id)
                told.add((answer.status_code, answer.text.replace(key_id, "ID")))
            assert len(told) == 1, (method, path, told)
            assert "There is no key" in told.pop()[1]
    assert await store.keys() == [key]


async def test_what_a_key_may_do_never_changes(client: httpx.AsyncClient, keyring: Keyring, store: Store) -> None:
    team = await store.create_team("local", "own")
    key = await store.add_key("local", a_key(team.id))
    path, admin = f"/v1/organization/projects/own/api_keys/{key.id}", key_of(keyring, None, "admin")
    answer = await client.post(path, headers=admin, json={"name": "new", "scopes": ["usage"]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "scopes")
    assert await store.key(key.id) == key


async def test_what_is_for_administrators(client: httpx.AsyncClient, keyring: Keyring, store: Store) -> None:
    own = await store.create_team("local", "own")
    admin = key_of(keyring, None, "admin")
    others = (key_of(keyring, own, "generate", "usage"), person(keyring, "alice", **{own.id: "owner"}))
    for method, path in OF_ADMINS:
        for caller in others:
            answer = await send(client, method, path, caller)
            code = answer.json()["error"]["code"]
            assert (answer.status_code, code) == (403, "insufficient_permissions"), (method, path)
        assert (await send(client, method, path, admin)).status_code in (200, 404), (method, path)


async def test_a_stranger_learns_nothing(client: httpx.AsyncClient, keyring: Keyring) -> None:
    for method, path in ROUTES:
        answer = await send(client, method, path, {}, "team_x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key"), (method, path)
    keyring.closed = False
    for method, path in ROUTES:
        answer = await send(client, method, path, {}, "team_x")
        assert answer.status_code == 401, (method, path)
        assert "starcoder keys create --admin" in answer.json()["error"]["message"], (method, path)


async def test_without_a_database(tokenizer: Tokenizer, keyring: Keyring) -> None:
    app = create_app(backend=FakeBackend(tokenizer), tokenizer=tokenizer, gatekeeper=keyring)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for method, path in ROUTES:
            answer = await send(client, method, path, key_of(keyring, None, "admin"), "a")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable"), path
            assert answer.headers["retry-after"] == "2"


async def test_a_database_that_is_away(
    client: httpx.AsyncClient, keyring: Keyring, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*arguments: object, **named: object) -> None:
        raise StoreUnavailableError("the database does not answer")

    monkeypatch.setattr(store, "teams", away)
    answer = await send(client, "GET", "/projects", key_of(keyring, None, "admin"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")


async def test_members_have_keys_of_their_own(
    client: httpx.AsyncClient, keyring: Keyring, store: Store, clock: Clock
) -> None:
    team = await store.create_team("local", "own")
    keys = f"/v1/organization/projects/{team.id}/api_keys"
    owner, member, viewer = (
        person(keyring, user, **{team.id: role})
        for user, role in (("olga", "owner"), ("max", "member"), ("vera", "viewer"))
    )
    for user, role in (("olga", "owner"), ("max", "member")):
        await store.set_member("local", Member(user=user, team_id=team.id, role=cast(Role, role)))
    of_owner = (await client.post(keys, headers=owner, json={"name": "o"})).json()
    clock.now += 1
    of_member = (await client.post(keys, headers=member, json={"name": "m", "expires": "90d"})).json()
    assert (await client.post(keys, headers=viewer, json={"name": "v"})).status_code == 403
    refused = await client.post(keys, headers=owner, json={"name": "o", "scopes": ["metrics"]})
    assert refused.status_code == 403
    assert of_member["owner"]["user"]["id"] == "max"
    assert of_member["created_by"] == "user:max"
    assert of_member["expires_at"] == clock.now + 90 * DAY
    for caller in (owner, member, viewer):
        listed = (await client.get(keys, headers=caller)).json()
        assert [key["name"] for key in listed["data"]] == ["o", "m"]
        assert of_member["value"] not in str(listed)
    for method, path in (("DELETE", ""), ("POST", "/rotate"), ("POST", "")):
        answer = await client.request(method, f"{keys}/{of_owner['id']}{path}", headers=member, json={"name": "mine"})
        assert answer.status_code == 403
    own = f"{keys}/{of_member['id']}"
    assert (await client.post(own, headers=member, json={"parallel": 5})).status_code == 403
    assert (await client.post(keys, headers=member, json={"name": "m", "parallel": 5})).status_code == 403
    assert (await client.post(own, headers=owner, json={"parallel": 5})).json()["parallel"] == 5
    clock.now += 1
    new = (await client.post(f"{own}/rotate", headers=member, json={"grace_seconds": 60})).json()
    assert new["parallel"] == 5
    assert (await client.get(own, headers=member)).json()["expires_at"] == clock.now + 60
    assert (await client.delete(own, headers=member)).json()["deleted"]
    everybody = (await client.get(keys, headers=owner)).json()["data"]
    assert [key["id"] for key in everybody] == [of_owner["id"], new["id"]]
    await client.delete(f"/v1/organization/projects/{team.id}/users/max", headers=owner)
    everybody = (await client.get(keys, headers=owner)).json()["data"]
    assert [key["id"] for key in everybody] == [of_owner["id"]]


async def test_who_am_i(client: httpx.AsyncClient, keyring: Keyring, store: Store) -> None:
    team = await store.create_team("local", "own")
    me = "/v1/organization/me"
    by_key = (await client.get(me, headers=key_of(keyring, team, "generate"))).json()
    assert (by_key["admin"], by_key["project"]["name"], by_key["user"]) == (False, "own", None)
    assert by_key["key"]["scopes"] == ["generate"]
    by_person = (await client.get(me, headers=person(keyring, "alice", **{team.id: "viewer"}))).json()
    assert by_person["roles"] == [{"id": team.id, "name": "own", "role": "viewer"}]
    assert (by_person["key"], by_person["project"], by_person["actor"]) == (None, None, "user:alice")
    assert (await client.get(me, headers=key_of(keyring, None, "admin"))).json()["admin"]


async def test_usage_of_ones_own_team_alone(client: httpx.AsyncClient, keyring: Keyring, store: Store) -> None:
    own, other = await store.create_team("local", "own"), await store.create_team("local", "foreign")
    await store.book([an_entry(team_id=team.id, cost=cost) for team, cost in ((own, 10**9), (other, 2 * 10**9))])
    await store.accepted([Accepted(team_id=own.id, key_id=None, model="starcoder", dialect="openai", at=NOON, lines=4)])
    parameters = {"start_time": int(NOON) - DAY, "end_time": int(NOON) + DAY, "bucket_width": "all"}
    path = "/v1/organization/usage/completions"

    async def sums(headers: dict[str, str], **more: Any) -> dict[str, str]:
        answer = await client.get(path, headers=headers, params={**parameters, "group_by": "project_id", **more})
        assert answer.status_code == 200, answer.text
        (bucket,) = answer.json()["data"]
        return {result["project_name"]: result["cost_usd"] for result in bucket["results"]}

    assert await sums(key_of(keyring, own, "usage")) == {"own": "0.001"}
    assert await sums(person(keyring, "alice", **{own.id: "viewer"})) == {"own": "0.001"}
    assert await sums(person(keyring, "nobody")) == {}
    admin = key_of(keyring, None, "admin")
    assert await sums(admin) == {"own": "0.001", "foreign": "0.002"}
    assert await sums(admin, project_ids=["foreign"]) == {"foreign": "0.002"}
    lacking = await client.get(path, headers=key_of(keyring, own, "generate"), params=parameters)
    assert (lacking.status_code, "'usage'" in lacking.text) == (403, True)
    foreign = await client.get(
        path, headers=key_of(keyring, own, "usage"), params={**parameters, "project_ids": "foreign"}
    )
    assert foreign.status_code == 404
    answer = await client.get(path, headers=admin, params={**parameters, "project_ids": own.id})
    (result,) = answer.json()["data"][0]["results"]
    assert (result["accepted_lines"], result["cost_per_accepted_line_usd"]) == (4, "0.00025")


@pytest.mark.parametrize("page", ["x", "-1", "9999999999999999999", "1e3", "٣"])
async def test_a_page_that_was_never_named(client: httpx.AsyncClient, keyring: Keyring, page: str) -> None:
    parameters = {"start_time": int(NOON) - DAY, "page": page}
    admin = key_of(keyring, None, "admin")
    answer = await client.get("/v1/organization/usage/completions", headers=admin, params=parameters)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "page")


async def test_names_are_no_formulas_in_a_spreadsheet(
    client: httpx.AsyncClient, keyring: Keyring, store: Store, administration: Administration
) -> None:
    team = await store.create_team("local", "own")
    for name in ("=cmd|' /C calc'!A0", '@SUM(1,"2")', "plain, with a comma"):
        key, _ = await administration.create_key("local", team_id=team.id, name=name, scopes=("generate",))
        await store.book([an_entry(team_id=team.id, key_id=key.id, user="-1+2")])
    parameters = {"start_time": int(NOON) - DAY, "end_time": int(NOON) + DAY, "by": ["day", "team", "key", "user"]}
    answer = await client.get("/v1/organization/usage.csv", headers=key_of(keyring, None, "admin"), params=parameters)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert sorted(row["key"] for row in rows) == ["'=cmd|' /C calc'!A0", '\'@SUM(1,"2")', "plain, with a comma"]
    assert {row["user"] for row in rows} == {"'-1+2"}
    assert {(row["day"], row["team"], row["cost_usd"]) for row in rows} == {("2027-01-15", "own", "0.0000315")}


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", "\r=1", "\n=1", "＝1"])
def test_a_formula_is_a_text(text: str) -> None:
    assert safe_cell(text) == f"'{text}"
    assert safe_cell(f"a{text}") == f"a{text}"


async def test_a_csv_is_bounded(client: httpx.AsyncClient, keyring: Keyring) -> None:
    admin = key_of(keyring, None, "admin")
    parameters = {"start_time": 0, "end_time": int(NOON), "by": "hour"}
    assert (await client.get("/v1/organization/usage.csv", headers=admin, params=parameters)).status_code == 400


async def test_prices_follow_each_other(client: httpx.AsyncClient, keyring: Keyring, clock: Clock) -> None:
    admin, path = key_of(keyring, None, "admin"), "/v1/organization/prices"
    price = {"model": "m", "input_usd_per_1k": "0.001", "output_usd_per_1k": "0.002"}
    assert (await client.post(path, headers=admin, json=price)).json()["cached_usd_per_1k"] == "0.001"
    for wrong in (
        {"valid_from": "2020-01-01"},
        {"input_usd_per_1k": "0.0000000000001"},
        {"input_usd_per_1k": 0.001},
        {"input_usd_per_1k": "NaN"},
        {"valid_from": "soon"},
        {},
    ):
        assert (await client.post(path, headers=admin, json={**price, **wrong})).status_code == 400, wrong
    clock.now += 1
    newer = {**price, "input_usd_per_1k": "0.0005", "valid_from": "2027-02-01"}
    assert (await client.post(path, headers=admin, json=newer)).status_code == 200
    listed = (await client.get(path, headers=admin)).json()["data"]
    assert [(one["model"], one["input_usd_per_1k"]) for one in listed] == [
        ("*", "0.000315"),
        ("m", "0.001"),
        ("m", "0.0005"),
    ]


async def test_a_change_takes_limits_away_with_null(client: httpx.AsyncClient, keyring: Keyring, store: Store) -> None:
    admin, team = key_of(keyring, None, "admin"), await store.create_team("local", "own")
    path = f"/v1/organization/projects/{team.id}"
    given = {"requests_per_minute": 5, "parallel": 2, "budget": {"amount_usd": "1"}}
    await client.post(path, headers=admin, json=given)
    changed = (await client.post(path, headers=admin, json={"requests_per_minute": None, "weight": 3})).json()
    assert (changed["requests_per_minute"], changed["parallel"], changed["weight"]) == (None, 2, 3)
    assert changed["budget"]["amount_usd"] == "1"
    for weight in (0, 0.0009, 1001):
        assert (await client.post(path, headers=admin, json={"weight": weight})).status_code == 400
    assert (await client.post(path, headers=admin, json={"budget": None})).json()["budget"] is None


async def test_the_audit_log_tells_when_it_was_changed(
    client: httpx.AsyncClient, keyring: Keyring, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin, path = key_of(keyring, None, "admin"), "/v1/organization/audit_logs/verify"
    await store.create_team("local", "own")
    assert (await client.get(path, headers=admin)).json()["entries"] == 1

    async def broken() -> int:
        raise AuditBrokenError(7, "it is missing")

    monkeypatch.setattr(store, "verify_audit", broken)
    found = (await client.get(path, headers=admin)).json()
    assert (found["intact"], found["broken_at"]) == (False, 7)


def test_bodies_of_the_test_are_those_of_the_routes() -> None:
    document = FastAPI(routes=organization_router().routes).openapi()
    there = {path.removeprefix("/v1/organization") for path in posts(document)}
    assert {path.replace(":anytext", "") for path in BODIES} <= there


async def test_who_leaves_leaves_nothing_behind(client: httpx.AsyncClient, keyring: Keyring, store: Store) -> None:
    """Sessions, memberships and keys of a person; those of others stay."""
    admin = key_of(keyring, None, "admin")
    teams = [await store.create_team("local", name) for name in ("a", "b")]
    roles: dict[str, Role] = {team.id: "member" for team in teams}
    for user in ("max", "olga"):
        for team in teams:
            await store.set_member("local", Member(user=user, team_id=team.id, role="member"))
            made = await client.post(
                f"/v1/organization/projects/{team.id}/api_keys",
                headers=person(keyring, user, **roles),
                json={"name": f"{user} in {team.name}"},
            )
            assert made.status_code == 200
    await store.create_session(b"cookie", "max", None, None, NOON + DAY)
    assert (await client.delete("/v1/organization/users/max", headers=admin)).status_code == 200
    assert {key.name for key in await store.keys()} == {"olga in a", "olga in b"}
    assert await store.session(b"cookie") is None
    assert await store.memberships("max") == []
    assert len(await store.memberships("olga")) == 2
    assert (await client.delete("/v1/organization/users/max", headers=admin)).status_code == 404
