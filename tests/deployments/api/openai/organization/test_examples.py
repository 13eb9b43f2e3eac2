"""The reference's examples of administration, run over a database."""

from __future__ import annotations

import httpx

from deployments.teams.money import PER_DOLLAR
from deployments.teams.records import Budget, Member
from deployments.teams.store import Store
from tests.deployments.api.openai.organization.test_routes import key_of
from tests.support.gatekeepers import Keyring
from tests.support.samples import samples_of, sent_by_python
from tests.support.stores import a_key

TEAM, PERSON, KEY = "search", "ada@example.com", "key_0197"


async def test_every_example_is_answered(client: httpx.AsyncClient, keyring: Keyring, store: Store) -> None:
    administrator = key_of(keyring, None, "admin", "usage")
    team = await store.create_team("local", TEAM, budget=Budget(amount=PER_DOLLAR, hard=True))
    document = (await client.get("/openapi.json")).json()
    samples = [sample for sample in samples_of(document) if "/v1/organization/" in sample.operation]
    samples.sort(key=lambda sample: sample.operation.endswith("/archive"))  # after it the team is no more
    assert len(samples) > 40
    for sample in samples:
        key = await store.add_key("local", a_key(None if "/admin_api_keys/" in sample.operation else team.id))
        await store.set_member("local", Member(user=PERSON, team_id=team.id, role="member"))
        sent = sent_by_python(sample.sources["Python"].replace(KEY, key.id))
        answer = await client.request(sent.method, sent.target, json=sent.body, headers=administrator)
        assert answer.status_code == 200, (sample.operation, answer.text)
        assert ("answer.json()" in sample.sources["Python"]) == (answer.headers["content-type"] == "application/json")
