"""Reports: what they cost others, and how they end."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.errors import RateLimitedError
from deployments.teams.database.connections import Database
from deployments.teams.database.url import parse
from deployments.teams.reports import Reports
from deployments.teams.store import Store
from deployments.teams.store_errors import TooLongError
from tests.support.stores import a_key, an_entry
from tests.support.waiting import PATIENCE_S

FOREVER = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "postgresql": "SELECT pg_sleep(10000)",
}


async def count_forever(connection: AsyncConnection) -> None:
    await connection.execute(text(FOREVER[connection.dialect.name]))


async def test_a_report_ends_in_time(store: Store, database: str) -> None:
    questions = Database(parse(database))
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(TooLongError):
            await questions.report(count_forever, 0.05)
        await questions.close()  # which waits for whatever runs


async def test_a_report_ends_with_who_waits_for_it(store: Store, database: str) -> None:
    questions = Database(parse(database))
    begun = asyncio.Event()

    async def counting(connection: AsyncConnection) -> None:
        begun.set()
        await count_forever(connection)

    async with asyncio.timeout(PATIENCE_S):
        waiting = asyncio.create_task(questions.report(counting, 10_000.0))
        await begun.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await questions.report(_one, 10_000.0) == 1
        await questions.close()


async def test_questions_take_no_connection_of_what_has_to_go_on(store: Store) -> None:
    """However many are asked, and never answered."""
    team = await store.create_team("local", "team")
    key = await store.add_key("local", a_key(team.id))
    asking = [asyncio.create_task(store._questions.report(count_forever, 10_000.0)) for _ in range(30)]
    try:
        async with asyncio.timeout(PATIENCE_S):
            await store.revoke_key("local", key.id)
            assert await store.book([an_entry()]) == 1
            found = await store.snapshot()
            assert found is not None
            assert found.keys == {}
            await store.spent()
    finally:
        for one in asking:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def test_names_of_what_is_asked_for(store: Store) -> None:
    teams = [await store.create_team("local", name) for name in ("a", "b")]
    keys = [await store.add_key("local", a_key(team.id, name=f"of {team.name}")) for team in teams]
    await store.archive_team("local", teams[0].id)
    assert await store.team_names({teams[0].id, "team_nobody"}) == {teams[0].id: "a"}
    assert await store.key_names({keys[0].id}) == {keys[0].id: "of a"}
    assert await store.key_names({f"key_{n}" for n in range(1000)} | {keys[1].id}) == {keys[1].id: "of b"}


def test_room_for_reports() -> None:
    reports = Reports(most=2)
    with reports.one("user:ada"):
        with pytest.raises(RateLimitedError), reports.one("user:ada"):
            raise AssertionError("two of one person")
        with reports.one("user:bob"), pytest.raises(RateLimitedError), reports.one("user:cas"):
            raise AssertionError("three at once")
        with reports.one("user:cas"):
            pass
    with reports.one("user:ada"):
        pass


async def _one(connection: AsyncConnection) -> int:
    return int((await connection.execute(text("SELECT 1"))).scalar_one())
