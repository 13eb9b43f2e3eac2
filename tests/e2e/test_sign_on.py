"""Single sign-on over TLS on a real server with two ingresses: a session that one began is known to both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest

from tests.support.administered import Administered
from tests.support.identity_provider import CLIENT_SECRET
from tests.support.over_tls import OverTls, Secure
from tests.support.signed_in_app import sign_in
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.e2e

BODY = {"prompt": "def f(", "max_tokens": 4, "temperature": 0, "ignore_eos": True}


@pytest.fixture
def secure(closed: Administered) -> Secure:
    return closed.secure


class TestOverTls(OverTls):
    pass


@asynccontextmanager
async def browser_at(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """New connections for every request, so that either ingress may get it."""
    limits = httpx.Limits(max_keepalive_connections=0)
    headers = {"origin": url}
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=120) as browser:
        yield browser


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            pass


async def test_people(closed: Administered) -> None:
    cluster = closed.cluster
    async with AsyncExitStack() as stack:
        ada, bob = [await stack.enter_async_context(browser_at(cluster.url)) for _ in range(2)]
        assert (await ada.post("/v1/completions", json=BODY)).status_code == 401
        await sign_in(cluster.url, ada, "ada")
        made = await ada.post("/v1/organization/projects", json={"name": "search"})
        assert made.status_code == 200, made.text
        team = made.json()["id"]
        back = await sign_in(cluster.url, bob, "bob")
        assert back.headers["location"] == f"{cluster.url}/teams"
        assert (await bob.get("/teams")).status_code == 200

        async def all_answer(status: int) -> bool:
            """Both ingresses: of eight requests each gets some."""
            answers = await asyncio.gather(*(bob.post("/v1/completions", json=BODY) for _ in range(8)))
            return {answer.status_code for answer in answers} == {status}

        await until(lambda: all_answer(200))  # each ingress knows of the team within two seconds
        key = (await bob.post(f"/v1/organization/projects/{team}/api_keys", json={"name": "laptop"})).json()["value"]

        async def is_on_the_bill() -> bool:
            query = {"start_time": 0, "bucket_width": "all", "group_by": "api_key_id"}
            found = (await bob.get("/v1/organization/usage/completions", params=query)).json()["data"]
            return {row["api_key_name"] for row in found[0]["results"]} == {None, "laptop"}  # a person's own has no key

        async def key_works() -> bool:
            headers = {"authorization": f"Bearer {key}"}
            async with httpx.AsyncClient(timeout=120, headers=headers) as program:
                return (await program.post(f"{cluster.url}/v1/completions", json=BODY)).status_code == 200

        await until(key_works)  # within two seconds, too
        await until(is_on_the_bill)

        session = bob.cookies["__Host-starcoder-session"]
        assert (await bob.post("/logout")).status_code == 200
        bob.cookies.set("__Host-starcoder-session", session)
        await until(lambda: all_answer(401))
        assert session.partition(".")[0] not in cluster.text()
        assert key not in cluster.text()
    assert CLIENT_SECRET not in cluster.text()
