"""Sums over usage: what one of them costs, and how many run."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from deployments.teams.records import Team
from deployments.teams.store import Store
from tests.deployments.api.openai.organization.test_routes import DAY, key_of
from tests.support.gatekeepers import Keyring
from tests.support.stores import NOON, a_key, an_entry

REPORTS = ("/v1/organization/usage/completions", "/v1/organization/costs", "/v1/organization/usage.csv")
TIMES = {"start_time": int(NOON) - DAY, "end_time": int(NOON) + DAY}


@pytest.mark.parametrize("path", REPORTS)
async def test_one_of_each_and_two_of_all(
    client: httpx.AsyncClient, keyring: Keyring, store: Store, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """The rest is told so at once; there is room again as soon as one has ended."""
    team = await store.create_team("local", "own")
    keys = [key_of(keyring, team, "usage") for _ in range(3)]
    begun, go_on, summed = asyncio.Semaphore(0), asyncio.Event(), store.usage

    async def slow(*arguments: Any, **named: Any) -> Any:
        begun.release()
        await go_on.wait()
        return await summed(*arguments, **named)

    monkeypatch.setattr(store, "usage", slow)
    running = [asyncio.create_task(client.get(path, headers=key, params=TIMES)) for key in keys[:2]]
    for _ in running:
        await begun.acquire()
    for key in keys:
        refused = await client.get(path, headers=key, params=TIMES)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert refused.headers["retry-after"] == "1"
    go_on.set()
    assert [(await one).status_code for one in running] == [200, 200]
    assert (await client.get(path, headers=keys[2], params=TIMES)).status_code == 200


async def test_an_id_that_comes_often_is_looked_up_once(
    client: httpx.AsyncClient, keyring: Keyring, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    team, find, found = await store.create_team("local", "own"), store.team, 0

    async def counted(id_or_name: str) -> Team:
        nonlocal found
        found += 1
        return await find(id_or_name)

    monkeypatch.setattr(store, "team", counted)
    key = key_of(keyring, team, "usage")
    for path in REPORTS:
        answer = await client.get(path, headers=key, params={**TIMES, "project_ids": [team.id] * 400})
        assert answer.status_code == 200
    assert found == len(REPORTS)


async def test_only_names_that_occur_are_looked_up(
    client: httpx.AsyncClient, keyring: Keyring, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    team, other = await store.create_team("local", "own"), await store.create_team("local", "foreign")
    key, _ = [await store.add_key("local", a_key(of.id, name=of.name)) for of in (team, other)]
    await store.book([an_entry(team_id=team.id, key_id=key.id)])
    look_up, asked = store.key_names, []

    async def noted(ids: Any) -> dict[str, str]:
        asked.append(set(ids))
        return await look_up(ids)

    monkeypatch.setattr(store, "key_names", noted)
    parameters = {**TIMES, "group_by": ["api_key_id", "project_id"], "bucket_width": "all"}
    answer = await client.get(REPORTS[0], headers=key_of(keyring, team, "usage"), params=parameters)
    (result,) = answer.json()["data"][0]["results"]
    assert (result["project_name"], result["api_key_name"]) == ("own", "own")
    assert asked == [{key.id}]
