"""Who holds a key, with the database there, away, and back."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

import pytest

from deployments.errors import AuthUnavailableError, UnauthorizedError
from deployments.teams.directory import LATE_S, MISSES_S, RETRY_AFTER_S, Directory
from deployments.teams.keys import Pepper, last_four, new_key
from deployments.teams.records import Key, Price, Snapshot, Spent, Team
from tests.support.log_lines import captured

PEPPER = Pepper(b"x" * 32)
DAY = 86_400.0
QUESTIONS = 2
"""Of the database, at each reading."""


@dataclass
class Database:
    """A source that counts its questions. made: there is one at all."""

    teams: dict[str, Team] = field(default_factory=dict)
    keys: dict[bytes, Key] = field(default_factory=dict)
    prices: tuple[Price, ...] = ()
    version: int = 1
    closed: bool = False
    made: bool = True
    away: bool = False
    asked: int = 0

    async def open(self) -> Database | None:
        self._answer()
        return self if self.made else None

    async def snapshot(self, known_version: int | None = None) -> Snapshot | None:
        self._answer()
        if known_version == self.version:
            return None
        return Snapshot(
            version=self.version, teams=dict(self.teams), keys=dict(self.keys), prices=self.prices, closed=self.closed
        )

    async def spent(self) -> dict[str, Spent]:
        self._answer()
        return {team: Spent(period_start=0.0, amount=7) for team in self.teams}

    def _answer(self) -> None:
        self.asked += 1
        if self.away:
            raise OSError("the database is away")

    def add(self, team: str | None = "red", expires_at: float | None = None) -> str:
        key = new_key()
        if team is not None:
            self.teams.setdefault(team, Team(id=team, name=team, created_at=0.0))
        stored = Key(
            id=f"key_{len(self.keys)}",
            team_id=team,
            name="",
            digest=PEPPER.digest(key),
            pepper_id=PEPPER.id,
            last_four=last_four(key),
            scopes=("generate",) if team else ("admin",),
            created_at=0.0,
            created_by="local",
            expires_at=expires_at,
        )
        self.keys[stored.digest] = stored
        self.closed = True
        self.version += 1
        return key

    def remove(self, key: str) -> None:
        del self.keys[PEPPER.digest(key)]
        self.version += 1


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += seconds


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(database: Database, clock: Clock) -> Directory:
    return Directory(database.open, lambda: PEPPER, max_staleness_s=3600.0, clock=clock, now=clock, sleep=clock.sleep)


async def test_nobody_is_asked_until_the_first_key_is_made(directory: Directory, database: Database) -> None:
    assert directory.closed, "nobody knows yet"
    database.made = False
    await directory.refresh()
    assert not directory.closed
    database.made = True
    await directory.refresh()
    assert not directory.closed
    key = database.add()
    await directory.refresh()
    assert directory.closed
    assert (await directory.principal(key)).team == database.teams["red"]
    database.remove(key)
    await directory.refresh()
    assert directory.closed, "once closed it stays so, whatever is revoked"


async def test_required_closes_it_before_there_is_a_key(database: Database, clock: Clock) -> None:
    database.made = False
    directory = Directory(database.open, lambda: PEPPER, required=True, clock=clock, now=clock, sleep=clock.sleep)
    await directory.refresh()
    assert directory.closed
    with pytest.raises(UnauthorizedError):
        await directory.principal(new_key())


@pytest.mark.parametrize("since_reading_s", [0.0, MISSES_S / 2, MISSES_S, 1.0])
async def test_a_new_key_works_at_once(
    directory: Directory, database: Database, clock: Clock, since_reading_s: float
) -> None:
    await directory.refresh()
    clock.now += since_reading_s
    key = database.add()
    assert (await directory.principal(key)).key is not None


async def test_strangers_do_not_ask_the_database_more_often(
    directory: Directory, database: Database, clock: Clock
) -> None:
    await directory.refresh()
    asked = database.asked
    refused = await asyncio.gather(*(directory.principal(new_key()) for _ in range(500)), return_exceptions=True)
    assert {type(error) for error in refused} == {UnauthorizedError}
    assert database.asked - asked <= 2 * QUESTIONS
    asked, began = database.asked, clock.now
    for _ in range(20):
        with pytest.raises(UnauthorizedError):
            await directory.principal(new_key())
    assert database.asked - asked <= QUESTIONS * (1 + (clock.now - began) / MISSES_S)
    asked = database.asked
    for _ in range(3):
        with pytest.raises(UnauthorizedError):
            await directory.principal("sk-" + "a" * 60)  # a typing error needs no database
    assert database.asked == asked


async def test_a_revoked_key_is_refused_after_the_next_reading(directory: Directory, database: Database) -> None:
    key, other = database.add(), database.add()
    await directory.refresh()
    await directory.principal(key)
    database.remove(key)
    await directory.refresh()
    with pytest.raises(UnauthorizedError, match=last_four(key)) as refused:
        await directory.principal(key)
    assert key not in str(refused.value)
    assert (await directory.principal(other)).team is not None


async def test_the_first_key_is_looked_for_and_what_is_known_is_good_for_an_hour(
    database: Database, clock: Clock
) -> None:
    clock.now = 1024.0
    directory = Directory(database.open, lambda: PEPPER, clock=clock, now=clock, sleep=clock.sleep)
    key = database.add()
    found = await directory.principal(key)
    (stored,) = database.keys.values()
    assert (found.team, found.key, found.scopes) == (database.teams["red"], stored, ("generate",))
    database.away = True
    clock.now = 1024.0 + 3600.0 + 2.0 + LATE_S
    assert await directory.principal(key) is found
    clock.now += 0.5
    with pytest.raises(AuthUnavailableError):
        await directory.principal(key)


async def test_who_is_refused_is_told_which_key_it_was_as_far_as_that_is_no_secret(
    directory: Directory, database: Database, clock: Clock
) -> None:
    unknown, old = new_key(), database.add(expires_at=clock.now)
    for key, told in (
        (unknown, f"The API key that ends in '{unknown[-4:]}' is not known, or was revoked."),
        (old, f"The API key that ends in '{old[-4:]}' has expired."),
        (f"{unknown}x", "The API key that was sent is none of this server's keys."),
    ):
        with pytest.raises(UnauthorizedError) as refused:
            await directory.principal(key)
        assert refused.value.message == told


async def test_what_has_ended_or_failed_is_told_once(database: Database, clock: Clock) -> None:
    directory = Directory(database.open, lambda: PEPPER, clock=clock, now=clock, sleep=clock.sleep)
    with captured() as lines:
        for away in (True, True, False, False, True):
            database.away = away
            await directory.refresh()
        told = lines.all()
    assert [(line["event"], line["level"], line["message"]) for line in told] == [
        ("teams.database_away", "error", "the database is away"),
        ("teams.database_back", "info", "keys are checked again"),
        ("teams.database_away", "error", "the database is away"),
    ]
    assert [line.get("error_type") for line in told] == ["OSError", None, "OSError"]


async def test_with_another_pepper_nobody_is_told_that_the_key_is_wrong(database: Database, clock: Clock) -> None:
    """It was lost, or a file of another server is mounted: the keys are good."""
    peppers = [Pepper(b"y" * 32), PEPPER]
    directory = Directory(database.open, lambda: peppers.pop(0), clock=clock, now=clock, sleep=clock.sleep)
    key = database.add()
    await directory.refresh()
    assert directory.closed
    await directory.refresh()
    assert (await directory.principal(key)).team is not None, "the right one was put back"


async def test_an_expired_key_and_one_of_an_archived_team_are_refused(
    directory: Directory, database: Database, clock: Clock
) -> None:
    key, archived = database.add(expires_at=clock.now + DAY), database.add("blue")
    await directory.refresh()
    await directory.principal(key)
    clock.now += DAY
    await directory.refresh()
    with pytest.raises(UnauthorizedError, match="expired"):
        await directory.principal(key)
    database.teams["blue"] = Team(id="blue", name="blue", created_at=0.0, archived_at=1.0)
    database.version += 1
    await directory.refresh()
    with pytest.raises(UnauthorizedError):
        await directory.principal(archived)


async def test_with_the_database_away_known_keys_go_on_for_an_hour(
    directory: Directory, database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    key = database.add()
    await directory.refresh()
    database.away = True
    for _ in range(100):
        clock.now += 30
        await directory.refresh()
        assert (await directory.principal(key)).team is not None
        with pytest.raises(AuthUnavailableError):  # never 401: it may have been made since
            await directory.principal(new_key())
    assert sum("database" in record.getMessage() for record in caplog.records) == 1, "it is said once"
    clock.now += 3600
    with pytest.raises(AuthUnavailableError):
        await directory.principal(key)
    database.away = False
    await directory.refresh()
    assert (await directory.principal(key)).team is not None
    with pytest.raises(UnauthorizedError):
        await directory.principal(new_key())


async def test_no_staleness_at_all_refuses_nobody_while_the_database_answers(database: Database, clock: Clock) -> None:
    directory = Directory(
        database.open, lambda: PEPPER, refresh_s=2.0, max_staleness_s=0.0, clock=clock, now=clock, sleep=clock.sleep
    )
    key = database.add()
    for _ in range(5):
        await directory.refresh()
        clock.now += 3.0  # a reading takes a while
        assert (await directory.principal(key)).team is not None
    clock.now += 10.0
    with pytest.raises(AuthUnavailableError):
        await directory.principal(key)


async def test_how_old_what_is_known_may_be(database: Database, clock: Clock) -> None:
    clock.now = 1024.0
    directory = Directory(database.open, lambda: PEPPER, refresh_s=2.0, max_staleness_s=64.0, clock=clock, now=clock)
    assert directory.age_s == float("inf")
    key = database.add()
    await directory.refresh()
    clock.now += 64.0 + 2.0 + LATE_S
    assert directory.age_s == 64.0 + 2.0 + LATE_S
    assert (await directory.principal(key)).team is not None
    clock.now += 0.5
    with pytest.raises(AuthUnavailableError) as refused:
        await directory.principal(key)
    assert refused.value.retry_after == RETRY_AFTER_S


async def test_a_server_that_starts_without_its_database_lets_nobody_in(
    directory: Directory, database: Database
) -> None:
    key = database.add()
    database.away = True
    await directory.refresh()
    assert directory.closed
    with pytest.raises(AuthUnavailableError):
        await directory.principal(key)
    database.away = False
    await directory.refresh()
    await directory.principal(key)


async def test_the_price_in_force_is_the_newest_that_has_begun(
    directory: Directory, database: Database, clock: Clock
) -> None:
    prices = [Price(model="m", input=n, cached=n, output=n, valid_from=clock.now + n * DAY) for n in (-2, -1, 1)]
    database.prices = (*prices, Price(model="other", input=9, cached=9, output=9, valid_from=0.0))
    await directory.refresh()
    assert directory.price("m") == prices[1]
    clock.now += DAY
    assert directory.price("m") == prices[2]
    assert directory.price("unknown") is None


async def test_teams_and_what_they_spent_are_those_of_the_last_reading(
    directory: Directory, database: Database
) -> None:
    assert (directory.team("red"), list(directory.teams()), directory.spent("red")) == (None, [], None)
    assert (directory.store, directory.price("m")) == (None, None)
    database.add("red")
    database.add("blue")
    await directory.refresh()
    assert directory.team("red") == database.teams["red"]
    assert list(directory.teams()) == list(database.teams.values())
    assert directory.spent("blue") == Spent(period_start=0.0, amount=7)
    assert (directory.team("green"), directory.spent("green")) == (None, None)
    assert directory.store is database


async def test_it_is_read_again_until_nobody_wants_it_any_more(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    really = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await really(0)

    directory = Directory(database.open, lambda: PEPPER, refresh_s=7.0)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    running = asyncio.create_task(directory.run())
    while len(pauses) < 3:
        await really(0)
    running.cancel()
    await asyncio.wait([running])
    assert set(pauses) == {7.0}
    assert database.asked >= 3 * QUESTIONS


async def test_closing_ends_a_reading_that_hangs(directory: Directory, database: Database) -> None:
    await directory.close()
    hangs, began = asyncio.Event(), asyncio.Event()

    async def open_source() -> Database:
        began.set()
        await hangs.wait()
        return database

    directory = Directory(open_source, lambda: PEPPER)
    refreshing = asyncio.create_task(directory.refresh())
    await began.wait()
    await directory.close()
    await asyncio.wait([refreshing])
    assert refreshing.cancelled()
    assert directory.store is None


async def test_ten_thousand_keys_are_found_as_quickly_as_one(directory: Directory, database: Database) -> None:
    keys = [database.add(f"team-{n % 1000}") for n in range(10_000)]
    await directory.refresh()
    assert {(await directory.principal(key)).key for key in keys} == set(database.keys.values())
