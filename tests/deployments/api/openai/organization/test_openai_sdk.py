"""OpenAI's own client drives the administration of teams, over real HTTP and a real database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import openai
import pytest

from deployments.command import cli
from deployments.teams.records import Member
from deployments.teams.store import Store
from tests.support.stores import an_entry
from tests.support.teams_server import TeamsServer

DAY = 86_400


@pytest.fixture
def client(server: TeamsServer, capsys: pytest.CaptureFixture[str]) -> Iterator[openai.OpenAI]:
    assert cli.main(["keys", "create", "--admin", "--teams.database", server.database]) == 0
    key = capsys.readouterr().out.strip()
    with openai.OpenAI(base_url=f"{server.url}/v1", admin_api_key=key, api_key=key, max_retries=0) as client:
        yield client


def book(server: TeamsServer, *entries: object) -> None:
    async def go() -> None:
        store = await Store.open(server.database)
        try:
            await store.book(entries)  # type: ignore[arg-type]
        finally:
            await store.close()

    asyncio.run(go())


def test_projects_are_teams(client: openai.OpenAI) -> None:
    projects = client.admin.organization.projects
    made = projects.create(name="editors", extra_body={"weight": 2, "budget": {"amount_usd": "10.50", "hard": True}})
    assert (made.object, made.name, made.status) == ("organization.project", "editors", "active")
    assert abs(made.created_at - time.time()) < 60
    assert made.budget == {  # type: ignore[attr-defined]
        "amount_usd": "10.5",
        "period": "month",
        "hard": True,
        "spent_usd": None,
        "period_start": None,
    }
    assert projects.retrieve(made.id).weight == 2  # type: ignore[attr-defined]
    assert projects.retrieve("editors").id == made.id
    assert projects.update(made.id, name="people").name == "people"
    with pytest.raises(openai.ConflictError) as taken:
        projects.create(name="people")
    assert taken.value.code == "name_taken"
    others = [projects.create(name=f"team-{number}").id for number in range(5)]
    assert projects.archive(others[0]).status == "archived"
    listed = [project.id for project in projects.list(limit=2)]
    assert listed == [made.id, *others[1:]]
    assert [project.id for project in projects.list(limit=2, include_archived=True)] == [made.id, *others]
    with pytest.raises(openai.NotFoundError):
        projects.retrieve("team_nobody")


def test_a_service_account_is_a_key_that_is_shown_once(client: openai.OpenAI, server: TeamsServer) -> None:
    projects = client.admin.organization.projects
    team = projects.create(name="jobs")
    account = projects.service_accounts.create(team.id, name="nightly", expires_in_seconds=3600)
    assert account.api_key is not None
    value = account.api_key.value
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=value, max_retries=0) as theirs:
        assert theirs.completions.create(model="bigcode/tiny-starcoder", prompt="x").choices[0].text
        with pytest.raises(openai.PermissionDeniedError) as refused:
            theirs.get("/organization/admin_api_keys", cast_to=object)
        assert refused.value.code == "insufficient_permissions"
    with pytest.raises(openai.PermissionDeniedError):
        client.completions.create(model="bigcode/tiny-starcoder", prompt="x")
    (key,) = projects.api_keys.list(team.id)
    assert (key.id, key.name, key.redacted_value) == (account.id, "nightly", f"sk-sc-...{value[-4:]}")
    assert key.owner.type == "service_account"
    assert key.expires_at == account.api_key.expires_at
    assert value not in projects.api_keys.retrieve(key.id, project_id=team.id).to_json()
    assert [one.id for one in projects.service_accounts.list(team.id)] == [account.id]
    assert projects.service_accounts.delete(account.id, project_id=team.id).deleted
    assert list(projects.api_keys.list(team.id)) == []
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=value, max_retries=0) as theirs,
        pytest.raises(openai.AuthenticationError),
    ):
        theirs.models.list()


def test_keys_are_changed_and_deleted(client: openai.OpenAI) -> None:
    projects = client.admin.organization.projects
    team, other = projects.create(name="a"), projects.create(name="b")
    ids = [projects.service_accounts.create(team.id, name=f"key {number}").id for number in range(4)]
    assert [key.id for key in projects.api_keys.list(team.id, limit=3)] == ids
    changed = projects.api_keys.update(ids[0], project_id=team.id, expires_in_seconds=60)
    assert changed.expires_at is not None
    assert 0 < changed.expires_at - time.time() <= 60
    with pytest.raises(openai.NotFoundError):
        projects.api_keys.retrieve(ids[0], project_id=other.id)
    assert projects.api_keys.delete(ids[1], project_id=team.id).object == "organization.project.api_key.deleted"
    assert [key.id for key in projects.api_keys.list(team.id)] == [ids[0], *ids[2:]]


def test_limits(client: openai.OpenAI) -> None:
    projects = client.admin.organization.projects
    team = projects.create(name="limited")
    (limit,) = projects.rate_limits.list_rate_limits(team.id)
    assert limit.max_tokens_per_1_minute is None
    changed = projects.rate_limits.update_rate_limit(limit.id, project_id=team.id, max_requests_per_1_minute=60)
    assert (changed.max_requests_per_1_minute, changed.max_tokens_per_1_minute) == (60, None)
    with pytest.raises(openai.NotFoundError):
        projects.spend_limit.retrieve(team.id)
    projects.spend_limit.update(team.id, currency="USD", interval="month", threshold_amount=1234)
    spend_limit = projects.spend_limit.retrieve(team.id)
    assert (spend_limit.threshold_amount, spend_limit.enforcement.status) == (1234, "inactive")
    assert projects.retrieve(team.id).budget["amount_usd"] == "12.34"  # type: ignore[attr-defined]
    assert projects.spend_limit.delete(team.id).deleted
    assert projects.retrieve(team.id).budget is None  # type: ignore[attr-defined]


def test_people(client: openai.OpenAI, server: TeamsServer) -> None:
    organization = client.admin.organization
    team, other = organization.projects.create(name="a"), organization.projects.create(name="b")
    users = organization.projects.users
    added = users.create(team.id, user_id="idp|a/b", role="owner")
    assert (added.id, added.role, added.email) == ("idp|a/b", "owner", None)
    with pytest.raises(openai.BadRequestError):
        users.create(team.id, user_id="idp|a/b", email="a@example.com", role="owner")
    asyncio.run(_signs_in(server, Member(user="idp|a/b", team_id=team.id, role="owner", email="a@example.com")))
    assert users.create(other.id, email="a@example.com", role="member").id == "idp|a/b"
    with pytest.raises(openai.BadRequestError):
        users.create(other.id, email="nobody@example.com", role="member")
    for number in range(5):
        users.create(team.id, user_id=f"person {number}", role="member")
    assert [user.id for user in users.list(team.id, limit=2)] == ["idp|a/b", *(f"person {n}" for n in range(5))]
    assert users.retrieve("idp|a/b", project_id=team.id).role == "owner"
    assert users.update("person 0", project_id=team.id, role="owner").role == "owner"
    assert users.delete("person 1", project_id=team.id).deleted
    (person,) = organization.users.list(emails=["a@example.com"])
    assert person.projects is not None
    assert [(project.name, project.role) for project in person.projects.data] == [("a", "owner"), ("b", "member")]
    assert organization.users.delete("idp|a/b").deleted
    assert "idp|a/b" not in [user.id for user in organization.users.list()]


async def _signs_in(server: TeamsServer, member: Member) -> None:
    """The provider has said what there is of them."""
    store = await Store.open(server.database)
    await store.set_member("provider", member)
    await store.close()


def test_administrators_keys(client: openai.OpenAI, server: TeamsServer) -> None:
    keys = client.admin.organization.admin_api_keys
    made = keys.create(name="second")
    assert made.value.startswith("sk-sc-")
    listed = list(keys.list(order="desc", limit=1))
    assert [key.name for key in listed] == ["second", "key"]
    assert "value" not in keys.retrieve(made.id).to_dict()
    assert keys.delete(made.id).deleted
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", admin_api_key=made.value, max_retries=0) as second,
        pytest.raises(openai.AuthenticationError),
    ):
        second.admin.organization.admin_api_keys.list()


def test_usage_and_costs(client: openai.OpenAI, server: TeamsServer) -> None:
    organization = client.admin.organization
    teams = [organization.projects.create(name=name) for name in ("a", "b")]
    today = int(time.time()) // DAY * DAY
    days = [today - 9 * DAY, today - 2 * DAY, today - 2 * DAY + 3600]
    book(server, *(an_entry(team_id=team.id, started_at=float(at) + 1) for team in teams for at in days))
    found = []
    page = None
    while True:
        options = {} if page is None else {"page": page}
        answer = organization.usage.completions(
            start_time=today - 10 * DAY, end_time=today, limit=3, group_by=["project_id", "model"], **options
        )
        assert len(answer.data) <= 3
        found += answer.data
        page = answer.next_page
        assert answer.has_more == (page is not None)
        if page is None:
            break
    assert [bucket.start_time for bucket in found] == [today - back * DAY for back in range(10, 0, -1)]
    sums = [(bucket.start_time, result) for bucket in found for result in bucket.results]
    assert [(at, result.project_id, result.num_model_requests) for at, result in sums] == [
        *((days[0], team, 1) for team in sorted(team.id for team in teams)),
        *((days[1], team, 2) for team in sorted(team.id for team in teams)),
    ]
    first = sums[0][1]
    assert (first.input_tokens, first.input_cached_tokens, first.output_tokens) == (100, 60, 20)
    assert first.cost_usd == "0.0000315"
    assert {result.project_name for _, result in sums} == {"a", "b"}

    hours = organization.usage.completions(
        start_time=days[1], end_time=days[1] + DAY, bucket_width="1h", project_ids=[teams[0].id], models=["starcoder"]
    )
    assert [len(bucket.results) for bucket in hours.data] == [1, 1, *[0] * 22]

    costs = organization.usage.costs(start_time=today - 10 * DAY, end_time=today, group_by=["line_item"], limit=180)
    (first_day, second_day) = [bucket.results[0] for bucket in costs.data if bucket.results]
    assert (first_day.line_item, first_day.amount_usd) == ("starcoder, completed", "0.000063")
    assert second_day.amount.value == pytest.approx(0.000126)
    with pytest.raises(openai.BadRequestError) as refused:
        organization.usage.completions(start_time=today, user_ids=["somebody"])
    assert refused.value.code == "unknown_parameter"


def test_the_audit_log(client: openai.OpenAI) -> None:
    organization = client.admin.organization
    team = organization.projects.create(name="a")
    organization.projects.service_accounts.create(team.id, name="k")
    organization.projects.archive(team.id)
    entries = list(organization.audit_logs.list(limit=2))
    assert [entry.type for entry in entries] == [
        "project.archived",
        "api_key.deleted",
        "api_key.created",
        "project.created",
        "api_key.created",
    ]
    assert [entry.actor.type for entry in entries] == [*["api_key"] * 4, "local"]
    by_us = list(organization.audit_logs.list(actor_ids=[entries[0].actor.api_key.id]))
    assert [entry.id for entry in by_us] == [entry.id for entry in entries[:-1]]
    assert [entry.id for entry in organization.audit_logs.list(event_types=["project.created"])] == [entries[3].id]
    assert [entry.id for entry in organization.audit_logs.list(before=entries[3].id, limit=2).data] == [
        entry.id for entry in entries[1:3]
    ]
