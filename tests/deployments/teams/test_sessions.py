"""Sessions: how soon an end is noticed, how seldom the database is asked, and what happens while it is away."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import AuthUnavailableError
from deployments.sign_on_settings import group_roles
from deployments.team_settings import TeamsSettings
from deployments.teams import sessions as module
from deployments.teams.keys import Pepper
from deployments.teams.records import Member, Session
from deployments.teams.sessions import RETRY_S, Sessions
from deployments.teams.sign_on import Groups
from deployments.teams.store_errors import StoreUnavailableError
from tests.support.waiting import eventually

PEPPER = Pepper(b"x" * 32)


@dataclass
class Database:
    """held: reads wait for it."""

    sessions: dict[bytes, Session] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)
    away: bool = False
    reads: int = 0
    held: asyncio.Event | None = None

    async def open(self) -> Database:
        if self.away:
            raise StoreUnavailableError("away")
        return self

    async def create_session(
        self, digest: bytes, user: str, email: str | None, name: str | None, expires_at: float, admin: bool = False
    ) -> Session:
        self.sessions[digest] = Session(
            user=user, email=email, name=name, created_at=0.0, expires_at=expires_at, admin=admin
        )
        return self.sessions[digest]

    async def session(self, digest: bytes) -> Session | None:
        self.reads += 1
        found = self.sessions.get(digest)
        if self.held is not None:
            await self.held.wait()
        return found

    async def end_session(self, digest: bytes) -> None:
        self.sessions.pop(digest, None)

    async def memberships(self, user: str) -> list[Member]:
        return [member for member in self.members if member.user == user]


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def database() -> Database:
    return Database(members=[Member(user="ada", team_id="team_1", role="owner")])


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def sessions(database: Database, time: Time) -> Sessions:
    return Sessions(database.open, lambda: PEPPER, refresh_s=2.0, max_staleness_s=3600.0, clock=time, now=time)


async def token_of(sessions: Sessions, admin: bool = False) -> str:
    return await sessions.create("ada", "ada@example.com", "Ada", 50_000.0, admin)


async def test_only_the_digest_is_stored(sessions: Sessions, database: Database) -> None:
    token = await token_of(sessions, admin=True)
    secret = token.partition(".")[0]
    assert list(database.sessions) == [hashlib.sha256(secret.encode()).digest()]
    found = await sessions.find(token)
    assert found is not None
    assert (found.session.user, found.session.admin, found.roles) == ("ada", True, {"team_1": "owner"})


async def test_the_database_is_asked_once_in_two_seconds(sessions: Sessions, database: Database, time: Time) -> None:
    token = await token_of(sessions)
    for _ in range(100):
        assert await sessions.find(token)
    assert database.reads == 1
    time.now += 1.9
    assert await sessions.find(token)
    assert database.reads == 1
    time.now += 0.1
    await asyncio.gather(*(sessions.find(token) for _ in range(100)))
    assert database.reads == 2


async def test_an_end_elsewhere_is_noticed_within_two_seconds(
    sessions: Sessions, database: Database, time: Time
) -> None:
    token = await token_of(sessions)
    assert await sessions.find(token)
    other = Sessions(database.open, lambda: PEPPER, clock=time, now=time)
    await other.end(token)
    assert await other.find(token) is None
    time.now += 2.0
    assert await sessions.find(token) is None


async def test_an_end_while_it_is_being_read(sessions: Sessions, database: Database) -> None:
    token = await token_of(sessions)
    database.held = asyncio.Event()
    finding = asyncio.create_task(sessions.find(token))
    await eventually(lambda: database.reads)
    await sessions.end(token)
    database.held.set()
    assert await finding is None
    assert await sessions.find(token) is None


async def test_it_expires(sessions: Sessions, time: Time) -> None:
    token = await token_of(sessions)
    assert await sessions.find(token)
    time.now += 49_999.0
    assert await sessions.find(token)
    time.now += 1.0
    assert await sessions.find(token) is None


async def test_while_the_database_is_away(sessions: Sessions, database: Database, time: Time) -> None:
    token, unseen = await token_of(sessions), await token_of(sessions)
    assert await sessions.find(token)
    database.away = True
    for _ in range(10):
        time.now += 300.0
        assert await sessions.find(token)
    with pytest.raises(AuthUnavailableError):
        await sessions.find(unseen)
    with pytest.raises(AuthUnavailableError):
        await sessions.end(token)
    time.now += 700.0
    with pytest.raises(AuthUnavailableError):
        await sessions.find(token)
    database.away = False
    time.now += RETRY_S
    assert await sessions.find(token)
    assert await sessions.find(unseen)


async def test_one_that_gives_up_waiting_breaks_nobody_elses(sessions: Sessions, database: Database) -> None:
    token = await token_of(sessions)
    database.held = asyncio.Event()
    first, second = (asyncio.create_task(sessions.find(token)) for _ in range(2))
    await eventually(lambda: database.reads)
    first.cancel()
    database.held.set()
    assert await second
    assert database.reads == 1


async def test_of_very_many_the_quarter_that_was_read_longest_ago_is_forgotten(
    sessions: Sessions, database: Database, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_KNOWN", 8)
    tokens = [await token_of(sessions) for _ in range(9)]
    for token in reversed(tokens[:8]):
        assert await sessions.find(token)
        time.now += 0.01
    assert await sessions.find(tokens[8])
    assert database.reads == 9
    for token in (*tokens[:6], tokens[8]):
        assert await sessions.find(token)
    assert database.reads == 9, "those are known"
    for token in tokens[6:8]:
        assert await sessions.find(token)
    assert database.reads == 11


async def test_closing_leaves_nobody_waiting_for_the_database(sessions: Sessions, database: Database) -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    database.held = asyncio.Event()
    finding = [asyncio.create_task(sessions.find(await token_of(sessions))) for _ in range(2)]
    await eventually(lambda: database.reads == 2)
    await sessions.close()
    answers = await asyncio.gather(*finding, return_exceptions=True)
    assert [type(answer) for answer in answers] == [asyncio.CancelledError] * 2
    assert not sessions._reading
    assert told == []


async def test_unless_it_is_said_otherwise_the_database_is_asked_every_two_seconds(
    database: Database, time: Time
) -> None:
    sessions = Sessions(database.open, lambda: PEPPER, clock=time, now=time)
    token = await token_of(sessions)
    assert len(token.partition(".")[0]) == 43, "256 bits"
    for later, reads in ((0.0, 1), (1.9, 1), (2.0, 2), (3.9, 2), (4.0, 3)):
        time.now = 1000.0 + later
        assert await sessions.find(token)
        assert database.reads == reads


async def test_ending_what_this_server_never_made_asks_nobody(sessions: Sessions, database: Database) -> None:
    database.away = True
    await sessions.end("made.up")
    database.away = False
    token = await token_of(sessions)
    assert await sessions.find(token)
    await sessions.end(f"{token}x")
    assert await sessions.find(token), "that was another one"
    await sessions.end(token)
    assert (await sessions.find(token), database.reads) == (None, 1)


async def test_a_database_that_is_away_is_asked_every_other_second(database: Database, time: Time) -> None:
    opened: list[float] = []

    async def open_store() -> Database:
        opened.append(time.now)
        return await database.open()

    sessions = Sessions(open_store, lambda: PEPPER, clock=time, now=time)
    token = await token_of(sessions)
    assert await sessions.find(token)
    database.away = True
    unseen, begin = await sessions.seal.mark("session", "s"), len(opened)
    for later in (2.0, 3.0, 3.9, 4.0, 5.9, 6.0):
        time.now = 1000.0 + later
        assert await sessions.find(token), "what is known is good for an hour"
        with pytest.raises(AuthUnavailableError) as refused:
            await sessions.find(f"s.{unseen}")
        assert refused.value.retry_after == RETRY_S
        assert refused.value.message == "Sessions cannot be checked at the moment."
    assert opened[begin:] == [1002.0, 1004.0, 1006.0]
    time.now = 1000.0 + 3599.5
    assert await sessions.find(token)
    time.now = 1000.0 + 3600.0
    with pytest.raises(AuthUnavailableError, match="cannot be checked"):
        await sessions.find(token)


@given(st.text(max_size=80), st.text(max_size=40))
def test_what_is_made_up_is_nobodys(secret: str, mark: str) -> None:
    async def find() -> None:
        database = Database()
        sessions = Sessions(database.open, lambda: PEPPER)
        assert await sessions.find(f"{secret}.{mark}") is None
        assert database.reads == 0

    asyncio.run(find())


def test_groups_in_teams() -> None:
    roles = group_roles("devs=search:member, cn=leads,ou=groups,dc=x=search:owner,all staff=ads:viewer")
    assert [(rule.group, rule.team, rule.role) for rule in roles] == [
        ("devs", "search", "member"),
        ("cn=leads,ou=groups,dc=x", "search", "owner"),
        ("all staff", "ads", "viewer"),
    ]
    groups = Groups("admins", roles)
    assert groups.role_in("search", {"devs", "cn=leads,ou=groups,dc=x"}) == "owner"
    assert groups.role_in("search", {"devs"}) == "member"
    assert groups.role_in("ads", {"devs"}) is None


def test_settings_of_sign_on_come_together() -> None:
    whole = {"oidc_issuer": "https://i.example.com", "oidc_client_id": "x", "public_url": "https://code.example.com"}
    assert TeamsSettings(**whole).closed
    assert not TeamsSettings().closed
    for missing in ("oidc_client_id", "public_url", "oidc_issuer"):
        with pytest.raises(ValueError, match="oidc_issuer"):
            TeamsSettings(**{name: value for name, value in whole.items() if name != missing})
    with pytest.raises(ValueError, match="is none of owner"):
        TeamsSettings(**whole, oidc_team_groups="devs=search:king")
