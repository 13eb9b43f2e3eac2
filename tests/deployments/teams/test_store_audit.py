"""Whoever changes the audit log past the store is found out, in both databases."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.teams.database import changes, schema
from deployments.teams.records import Price
from deployments.teams.store import Store
from deployments.teams.store_errors import AuditBrokenError
from tests.support.stores import NOON, an_entry, drop_triggers, past_the_store

ROWS = 8

COLUMNS = [column.name for column in schema.audit.c]


async def grown(store: Store) -> None:
    """To a log of ROWS rows, once."""
    if not await store.audit():
        for number in range(ROWS):
            await store.create_team(f"user:{number % 3}", f"team-{number}", weight=number + 0.1)


async def test_rows_say_who_did_what(store: Store) -> None:
    await grown(store)
    rows = await store.audit()
    assert [row.number for row in rows] == list(range(1, ROWS + 1))
    assert [row.previous for row in rows] == ["", *(row.digest for row in rows[:-1])]
    assert (rows[2].actor, rows[2].action, rows[2].at) == ("user:2", "team.created", NOON)
    assert rows[2].detail == {"name": "team-2", "weight": 2.1, "service_class": "standard"}
    assert rows[2].subject == (await store.team("team-2")).id
    assert await store.verify_audit() == ROWS


async def test_pages_of_the_log(store: Store) -> None:
    await grown(store)
    numbers = [row.number for row in await store.audit(after=2, limit=3)]
    assert numbers == [3, 4, 5]
    assert [row.number for row in await store.audit(before=4, newest_first=True)] == [3, 2, 1]
    assert [row.number for row in await store.audit(actor="user:1")] == [2, 5, 8]
    team = await store.team("team-4")
    assert [row.number for row in await store.audit(subject=team.id, action="team.created")] == [5]
    assert await store.audit(action="key.revoked") == []


async def test_a_log_that_nobody_wrote_is_whole(store: Store) -> None:
    assert await store.verify_audit() == 0


async def test_changes_of_two_processes_make_one_chain(store: Store, database: str) -> None:
    other = await Store.open(database)
    stores = (store, other) * 10
    await asyncio.gather(*(each.create_team("local", f"team-{number}") for number, each in enumerate(stores)))
    assert await store.verify_audit() == await other.verify_audit() == len(stores)
    await other.close()


async def test_strange_names_break_no_chain(store: Store) -> None:
    await store.create_team("user:\0\ud800é", "a")
    await store.set_price("local", Price(model="\0", input=1, cached=1, output=1, valid_from=1e300))
    assert await store.verify_audit() == 2


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
async def test_every_change_of_the_log_is_found(store: Store, database: str, data: st.DataObject) -> None:
    await grown(store)
    number = data.draw(st.integers(1, ROWS), label="row")
    async with past_the_store(database) as connection:
        await drop_triggers(connection)
        tamper = data.draw(st.sampled_from([changed, resealed, removed, cut_off, swapped, doubled, forgotten_head]))
        await tamper(connection, number, data)
        with pytest.raises(AuditBrokenError) as broken:
            await changes.verify(connection)
    assert 1 <= broken.value.number <= ROWS + 1
    assert await store.verify_audit() == ROWS


async def changed(connection: AsyncConnection, number: int, data: st.DataObject) -> None:
    """One column of a row, also to what means the same."""
    row = await _row(connection, number)
    column = data.draw(st.sampled_from(COLUMNS))
    if column == "number":
        value: object = data.draw(st.integers(ROWS + 1, ROWS + 3) | st.just(0))
    elif column == "at":
        value = row["at"] + data.draw(st.sampled_from([1.0, -0.001]))
    elif column == "detail":
        value = data.draw(st.sampled_from(["{}", f"{row['detail']} ", row["detail"].replace("team", "Team")]))
    else:
        value = data.draw(st.text("ab0", max_size=3).filter(lambda text: text != row[column]))
    await connection.execute(update(schema.audit).where(schema.audit.c.number == number).values({column: value}))


async def resealed(connection: AsyncConnection, number: int, data: st.DataObject) -> None:
    """Its own digest is right again."""
    row = {**await _row(connection, number), "actor": "user:nobody"}
    row["digest"] = changes._digest({name: row[name] for name in COLUMNS if name != "digest"})
    await connection.execute(update(schema.audit).where(schema.audit.c.number == number).values(row))


async def removed(connection: AsyncConnection, number: int, data: st.DataObject) -> None:
    """And perhaps those after it have moved up."""
    await connection.execute(delete(schema.audit).where(schema.audit.c.number == number))
    if data.draw(st.booleans()):
        for later in range(number + 1, ROWS + 1):
            await _renumber(connection, later, later - 1)


async def cut_off(connection: AsyncConnection, number: int, data: st.DataObject) -> None:
    await connection.execute(delete(schema.audit).where(schema.audit.c.number >= number))


async def swapped(connection: AsyncConnection, number: int, data: st.DataObject) -> None:
    other = data.draw(st.integers(1, ROWS).filter(lambda other: other != number))
    await _renumber(connection, number, 0)
    await _renumber(connection, other, number)
    await _renumber(connection, 0, other)


async def doubled(connection: AsyncConnection, number: int, data: st.DataObject) -> None:
    """At an end, without the head, sealed or not."""
    row = {**await _row(connection, number), "number": data.draw(st.sampled_from([ROWS + 1, 0, -1]))}
    if data.draw(st.booleans()):
        row["previous"] = (await _row(connection, ROWS))["digest"]
        row["digest"] = changes._digest({name: row[name] for name in COLUMNS if name != "digest"})
    await connection.execute(insert(schema.audit).values(row))


async def forgotten_head(connection: AsyncConnection, number: int, data: st.DataObject) -> None:
    await connection.execute(delete(schema.audit_head))


async def _row(connection: AsyncConnection, number: int) -> dict[str, object]:
    query = select(schema.audit).where(schema.audit.c.number == number)
    return dict((await connection.execute(query)).mappings().one())


async def _renumber(connection: AsyncConnection, number: int, to: int) -> None:
    await connection.execute(update(schema.audit).where(schema.audit.c.number == number).values(number=to))


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("table", ["ledger", "audit", "prices"])
@pytest.mark.usefixtures("store")
async def test_nor_can_it_be_emptied(database: str, table: str) -> None:
    """SQLite knows no other way than DELETE."""
    async with past_the_store(database) as connection:
        with pytest.raises(DBAPIError, match=f"{table} is append-only"):
            await connection.execute(text(f"TRUNCATE {table}"))


@pytest.mark.parametrize("table", ["ledger", "audit", "prices"])
@pytest.mark.parametrize("change", ["UPDATE {} SET {} = {}", "DELETE FROM {}"])
async def test_the_database_itself_refuses_to_change_what_was_written(
    store: Store, database: str, table: str, change: str
) -> None:
    await store.set_price("local", Price(model="m", input=1, cached=1, output=1, valid_from=0.0))
    await store.book([an_entry()])
    column = {"ledger": "cost", "audit": "at", "prices": "input"}[table]
    async with past_the_store(database) as connection:
        with pytest.raises(DBAPIError, match=f"{table} is append-only"):
            await connection.execute(text(change.format(table, column, column)))
