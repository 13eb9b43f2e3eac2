"""The databases below the store: how they begin, fail, come back, and what they never hold."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import traceback
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, select, text

from deployments.teams.database import schema
from deployments.teams.database import upgrade as upgrade_module
from deployments.teams.database.connections import failures, prepare
from deployments.teams.database.upgrade import upgrade
from deployments.teams.database.url import exists, file_of, parse, sqlite_file
from deployments.teams.keys import new_key
from deployments.teams.records import Budget, Member
from deployments.teams.store import Store
from deployments.teams.store_errors import StoreError, StoreUnavailableError
from model.config import ConfigError
from tests.support.forks import Forks
from tests.support.postgres import PASSWORD, Postgres
from tests.support.stores import NOON, PEPPER, Clock, a_key, an_entry, begin, drop_triggers, past_the_store
from tests.support.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def beginners() -> Iterator[Forks]:
    """Processes that open a store."""
    with Forks(begin.__module__, begin.__name__) as forks:
        yield forks


async def test_what_migrations_make_is_the_schema(store: Store, database: str) -> None:
    def differences(connection: Connection) -> list[object]:
        return compare_metadata(MigrationContext.configure(connection), schema.metadata)

    async with past_the_store(database) as connection:
        assert await connection.run_sync(differences) == []


@pytest.mark.usefixtures("store")
async def test_names_indexes_and_defaults_are_those_of_the_schema_as_well(database: str) -> None:
    """Of which Alembic compares only what it can alter."""
    async with past_the_store(database) as connection:
        migrated = await connection.run_sync(described)
        await connection.run_sync(schema.metadata.drop_all)
        await connection.run_sync(schema.metadata.create_all)
        expected = await connection.run_sync(described)
    if connection.dialect.name == "sqlite":  # what PostgreSQL refuses by itself
        for table in "spend_day", "usage_hour":
            expected[table]["checks"] = ["typeof(cost) = 'integer'"]
    assert migrated == expected


async def test_the_first_schema_is_migrated_with_what_it_holds(empty_database: str, clock: Clock) -> None:
    await upgrade(parse(empty_database), "0001")
    team = {"id": "team_1", "name": "payments", "created_at": NOON, "weight": 1.5, "service_class": "batch"}
    team |= {"cache_root": "c", "budget_amount": 100, "budget_period": "month", "budget_hard": True}
    used = {"team_id": "team_1", "key_id": "", "model": "m", "kind": "completed", "dialect": "openai", "user": ""}
    sums = dict.fromkeys(column.name for column in schema.usage_hour.c if column.name not in (*used, "hour"))
    async with past_the_store(empty_database) as connection:
        await connection.execute(schema.teams.insert(), team)
        for hours, cost in (0, 7), (1, 5), (24, 3):
            hour = int(NOON - 3600 * hours)
            await connection.execute(
                schema.usage_hour.insert(), used | dict.fromkeys(sums, 1) | {"hour": hour, "cost": cost}
            )
        await connection.commit()
    store = await Store.open(empty_database, clock)
    assert (await store.team("payments")).budget == Budget(amount=100, period="month", hard=True)
    assert (await store.spent())["team_1"].amount == 15
    async with past_the_store(empty_database) as connection:
        days = await connection.execute(select(schema.spend_day.c.cost).order_by(schema.spend_day.c.day))
        assert [row.cost for row in days.all()] == [3, 12]
    assert await store.book([an_entry(team_id="team_1", cost=1)]) == 1
    assert (await store.spent())["team_1"].amount == 16
    await store.close()


async def test_a_database_of_a_newer_version_is_left_alone(store: Store, database: str) -> None:
    async with past_the_store(database) as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        await connection.commit()
    with pytest.raises(ConfigError, match="another version"):
        await Store.open(database)


async def test_processes_that_start_at_once_make_one_database(beginners: Forks, empty_database: str) -> None:
    names = ["a", "b", "c"]
    assert beginners.run(*([empty_database, name] for name in names)) == [0, 0, 0]
    store = await Store.open(empty_database)
    assert [team.name for team in await store.teams()] == names
    assert await store.verify_audit() == len(names)
    await store.close()


async def test_who_finds_a_new_file_at_work_waits(tmp_path: Path) -> None:
    """SQLite itself would not: it says at once that the file is locked."""
    file = tmp_path / "teams.sqlite"
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        preparing = asyncio.create_task(asyncio.to_thread(prepare, file))
        done, _ = await asyncio.wait([preparing], timeout=0.1)
        assert not done
        other.execute("ROLLBACK")
        await asyncio.wait_for(preparing, PATIENCE_S)
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_a_migration_that_hangs_holds_up_no_start(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    name = await postgres.create()
    other = await asyncpg.connect(postgres.url(name).replace("+asyncpg", ""))
    try:
        await other.execute(f"SELECT pg_advisory_lock({upgrade_module._LOCK})")
        monkeypatch.setattr(upgrade_module, "_LOCK_S", 1)
        with pytest.raises(StoreUnavailableError):
            await Store.open(postgres.url(name))
        await other.execute(f"SELECT pg_advisory_unlock({upgrade_module._LOCK})")
        await (await Store.open(postgres.url(name))).close()
    finally:
        await other.close()
        await postgres.drop(name)


async def test_what_was_written_is_there_for_the_next_process(empty_database: str) -> None:
    store = await Store.open(empty_database)
    team = await store.create_team("local", "payments")
    await store.close()
    store = await Store.open(empty_database)
    assert await store.teams() == [team]
    await store.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "teams.sqlite",
        "mysql://root:secret-word@host/teams",
        "sqlite:///teams.sqlite",
        "sqlite+aiosqlite://",
        "sqlite+aiosqlite:///:memory:",
        "postgresql://teams:secret-word@host/teams",
        "postgresql+asyncpg://teams:secret-word@host",
        "postgresql+asyncpg//teams:secret-word@host/teams",
        "postgresql+asyncpg://teams:secret-word@host:port/teams",
    ],
)
async def test_what_is_no_database_of_ours_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        await Store.open(url)
    assert "secret-word" not in shown(refused.value)
    with pytest.raises(ConfigError):
        exists(url)


@pytest.mark.parametrize(
    "path", ["/a/b.sqlite", "b", "/deep 100%/b", "/a%20b", "/a?timeout=1", "/ä#b@c:d", "~/a\nb", "//host/b", ":b"]
)
def test_the_file_of_a_url_is_read_as_its_library_does(path: str) -> None:
    url = f"sqlite+aiosqlite:///{path}"
    assert file_of(url) == sqlite_file(parse(url))


async def test_an_sqlite_file_belongs_to_its_user(tmp_path: Path) -> None:
    file = tmp_path / "data" / "deep 100%" / "teams.sqlite"
    url = f"sqlite+aiosqlite:///{file}"
    assert not exists(url)
    store = await Store.open(url)
    await store.create_team("local", "payments")
    assert exists(url)
    assert {path.name: path.stat().st_mode & 0o777 for path in file.parent.iterdir()} == {
        "teams.sqlite": 0o600,
        "teams.sqlite-shm": 0o600,
        "teams.sqlite-wal": 0o600,
    }
    assert file.parent.stat().st_mode & 0o777 == 0o700
    await store.close()
    assert [path.name for path in file.parent.iterdir()] == ["teams.sqlite"]
    assert exists("postgresql+asyncpg://teams@host/teams")
    assert not exists("sqlite+aiosqlite:////dev/null/none.sqlite")


async def test_a_place_where_no_file_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in tmp_path / "file" / "teams.sqlite", tmp_path:
        with pytest.raises(StoreUnavailableError):
            await Store.open(f"sqlite+aiosqlite:///{path}")


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "teams.sqlite").write_text("something else, and long enough to be looked at" * 100)
    with pytest.raises(StoreUnavailableError, match="DatabaseError"):
        await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'teams.sqlite'}")


async def test_a_postgresql_that_is_not_there_or_lets_nobody_in(postgres: Postgres) -> None:
    nowhere = f"postgresql+asyncpg://teams:{PASSWORD}@127.0.0.1:1/teams"
    for url, why in (
        (nowhere, "Connect call failed"),
        (postgres.url("none"), 'database "none" does not exist'),
        (postgres.url("postgres", "wrong-word"), "password authentication failed"),
    ):
        with pytest.raises(StoreUnavailableError, match=why) as failed:
            await Store.open(url)
        assert PASSWORD not in shown(failed.value)
        assert "wrong-word" not in shown(failed.value)


async def test_the_server_stops_and_comes_back(postgres: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody opens the store again: what was booked is there, and what could not be is booked then."""
    store = await Store.open(postgres.url(await postgres.create()))
    team = await store.create_team("local", "payments", budget=Budget(amount=1))
    booked, waiting = an_entry(team_id=team.id, cost=1), an_entry(team_id=team.id, cost=10)
    await asyncio.gather(*(store.book([booked]) for _ in range(8)))
    for _ in range(2):
        with postgres.away():
            for _ in range(3):
                with pytest.raises(StoreUnavailableError):
                    await store.snapshot()
                with pytest.raises(StoreUnavailableError):
                    await store.book([booked, waiting])
        assert await store.snapshot(1) is None
    assert await store.book([booked, waiting]) == 1
    assert (await store.spent())[team.id].amount == 11
    await store.close()
    assert PASSWORD not in caplog.text


async def test_a_call_in_the_midst_of_which_the_server_stops(postgres: Postgres) -> None:
    url = postgres.url(await postgres.create())
    store = await Store.open(url)
    entries = [an_entry(team_id="team_a", cost=1) for _ in range(500)]
    locker = await asyncpg.connect(url.replace("+asyncpg", ""))
    await locker.execute("BEGIN; LOCK TABLE usage_hour")
    booking = asyncio.create_task(store.book(entries))
    while not await locker.fetchval("SELECT count(*) FROM pg_sleep(0.01), pg_locks WHERE NOT granted"):
        pass
    with postgres.away():
        locker.terminate()
        with pytest.raises(StoreUnavailableError):
            await booking
    assert await store.book(entries) == len(entries)
    (row,) = await store.usage(NOON, NOON + 1, bucket="all")
    assert row.requests == len(entries)
    await store.close()


async def test_no_row_and_no_file_holds_a_key_or_the_pepper(store: Store, database: str, tmp_path: Path) -> None:
    canary, cookie = new_key(), new_key()
    team = await store.create_team("local", "payments")
    key = await store.add_key("local", a_key(team.id, secret=canary))
    await store.set_key("local", key.id, name="other")
    await store.create_session(PEPPER.digest(cookie), "ann", None, None, NOON + 100)
    await store.set_member("local", Member(user="ann", team_id=team.id, role="owner"))
    await store.book([an_entry(team_id=team.id, key_id=key.id)])
    await store.revoke_key("local", key.id)
    async with past_the_store(database) as connection:
        tables = [await connection.execute(select(table)) for table in schema.metadata.sorted_tables]
        rows = [repr(row) for table in tables for row in table.all()]
    held = [*rows, *contents(tmp_path)]
    assert key.id in "".join(held)
    for secret in (canary, canary[:20], cookie, PEPPER.secret.decode(), PEPPER.secret.hex()):
        assert not [text for text in held if secret in text]


async def test_errors_hold_nothing_of_what_was_sent(store: Store, database: str) -> None:
    team = await store.create_team("local", "payments")
    async with past_the_store(database) as connection:
        await drop_triggers(connection)
        await connection.execute(text("ALTER TABLE keys RENAME TO moved"))
        await connection.commit()
    secret = new_key()
    key = a_key(team.id, secret=secret, name=f"named {secret}")
    for call in store.add_key("local", key), store.keys(team.id):
        with pytest.raises(StoreUnavailableError) as failed:
            await call
        text_of_it = shown(failed.value)
        for word in (secret, secret[-4:], team.id, key.id, PASSWORD, repr(key.digest)):
            assert word not in text_of_it


async def test_a_row_that_is_there_already_is_named_by_nobody(store: Store) -> None:
    team = await store.create_team("local", "payments")
    secret = new_key()
    await store.add_key("local", a_key(team.id, secret=secret))
    with pytest.raises(StoreError) as failed:
        await store.add_key("local", a_key(team.id, secret=secret))
    assert PEPPER.digest(secret).hex() not in shown(failed.value)


def test_errors_of_others_pass() -> None:
    with pytest.raises(json.JSONDecodeError), failures():
        json.loads("{")


def described(connection: Connection) -> dict[str, dict[str, object]]:
    """By table, what the database says of it."""
    about = inspect(connection)
    return {
        name: {
            "columns": [{**column, "type": str(column["type"])} for column in about.get_columns(name)],
            "key": about.get_pk_constraint(name),
            "foreign keys": about.get_foreign_keys(name),
            "unique": about.get_unique_constraints(name),
            "indexes": [
                {**index, "dialect_options": {k: str(v) for k, v in index.get("dialect_options", {}).items()}}
                for index in about.get_indexes(name)
            ],
            "checks": [check["sqltext"] for check in about.get_check_constraints(name)],
        }
        for name in about.get_table_names()
    }


def contents(directory: Path) -> list[str]:
    return [path.read_bytes().decode("latin-1") for path in directory.rglob("*") if path.is_file()]


def shown(error: BaseException) -> str:
    """As a log has it."""
    return "".join(traceback.format_exception(error))
