"""What people may leave behind in the store: nothing, once they are put out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from deployments.teams.actors import PROVIDER
from deployments.teams.database import keys
from deployments.teams.records import Key, Member, Role
from deployments.teams.store import Store
from deployments.teams.store_errors import InvalidChangeError, NotAllowedError
from tests.support.stores import NOON, Clock, a_key

DAY = 86_400.0


async def good(store: Store) -> set[str]:
    """Ids of the keys that get in."""
    snapshot = await store.snapshot()
    assert snapshot is not None
    return {key.id for key in snapshot.keys.values()}


def of(user: str, team_id: str | None, **fields: object) -> Key:
    return a_key(team_id, created_by=f"user:{user}", **fields)


async def put(store: Store, team_id: str, user: str, role: Role = "member") -> None:
    await store.set_member("local", Member(user=user, team_id=team_id, role=role))


@pytest.mark.parametrize("user", ["eve", "idp|a/b", "user:eve", "größe\ud800"])
async def test_a_key_is_good_as_long_as_its_maker_makes_keys(store: Store, user: str) -> None:
    team, other = [await store.create_team("local", name) for name in ("a", "b")]
    await put(store, team.id, user)
    await put(store, other.id, user, "owner")
    await store.add_key("local", by_command := a_key(team.id))
    await store.add_key(f"user:{user}", key := of(user, team.id))
    assert await good(store) == {by_command.id, key.id}
    await put(store, team.id, user, "viewer")
    assert await good(store) == {by_command.id}
    await put(store, team.id, user, "owner")
    assert await good(store) == {by_command.id, key.id}
    await store.remove_member(PROVIDER, team.id, user)
    await put(store, team.id, user, "owner")
    assert await good(store) == {by_command.id}, "whoever comes back comes without the old keys"


async def test_who_was_put_out_makes_no_key_and_lets_nobody_in(store: Store) -> None:
    """A server that has not heard of it yet asks for them."""
    team = await store.create_team("local", "a")
    attempts: dict[Role, list[Callable[[], Awaitable[object]]]] = {
        "member": [lambda: store.add_key("user:eve", of("eve", team.id))],
        "owner": [lambda: store.set_member("user:eve", Member(user="eves-second", team_id=team.id, role="owner"))],
    }
    for role, others in (("member", ("viewer",)), ("owner", ("viewer", "member"))):
        for lesser in (None, *others):
            await put(store, team.id, "eve", role)
            for attempt in attempts[role]:
                await attempt()
                if lesser is None:
                    await store.remove_member("local", team.id, "eve")
                else:
                    await put(store, team.id, "eve", lesser)
                number = len(await store.audit(limit=1000))
                with pytest.raises(NotAllowedError):
                    await attempt()
                assert len(await store.audit(limit=1000)) == number


async def test_a_key_that_is_made_while_its_maker_is_put_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MOST_OF_PERSON", 10**6)
    monkeypatch.setattr(keys, "MOST_OF_TEAM", 10**6)
    begun = asyncio.Event()
    team = await store.create_team("local", "a")
    await put(store, team.id, "eve")

    async def again() -> None:
        while True:
            await store.add_key("user:eve", of("eve", team.id))
            begun.set()

    making = asyncio.create_task(again())
    await begun.wait()
    await store.remove_member("local", team.id, "eve")
    with pytest.raises(NotAllowedError):
        await making
    assert await store.keys(team.id) == []


async def test_administrators_make_keys_of_teams_that_are_not_theirs(store: Store, clock: Clock) -> None:
    team = await store.create_team("local", "a")
    for key in (of("root", team.id), of("root", None)):
        with pytest.raises(NotAllowedError):
            await store.add_key("user:root", key)
    await store.create_session(b"1" * 32, "root", None, None, NOON + DAY)
    with pytest.raises(NotAllowedError):
        await store.add_key("user:root", of("root", None))
    await store.create_session(b"2" * 32, "root", None, None, NOON + DAY, admin=True)
    made = await store.add_key("user:root", of("root", team.id))
    own = await store.add_key("user:root", of("root", None))
    assert (made.created_by, own.created_by) == ("admin:root", "user:root")
    assert await good(store) == {made.id, own.id}
    assert await store.remove_person("local", "root")
    assert await good(store) == set()
    with pytest.raises(NotAllowedError):
        await store.add_key("user:root", of("root", None))


async def test_who_leaves_is_gone_at_once(store: Store) -> None:
    teams = [await store.create_team("local", name) for name in ("a", "b")]
    for team in teams:
        await put(store, team.id, "max")
        await store.add_key("user:max", of("max", team.id))
    await store.create_session(b"1" * 32, "max", None, None, NOON + DAY)
    before = len(await store.audit())
    assert await store.remove_person("local", "max")
    rows = await store.audit(after=before)
    assert [row.action for row in rows] == [*["key.revoked"] * 2, *["member.removed"] * 2]
    assert {row.at for row in rows} == {NOON}
    assert (await store.memberships("max"), await store.keys()) == ([], [])
    assert not await store.remove_person("local", "max")


async def test_keys_have_an_end(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a person in a team, and of a team."""
    monkeypatch.setattr(keys, "MOST_OF_PERSON", 2)
    monkeypatch.setattr(keys, "MOST_OF_TEAM", 4)
    team, other = [await store.create_team("local", name) for name in ("a", "b")]
    for of_team in (team, other):
        await put(store, of_team.id, "eve")
    await put(store, team.id, "max")
    first = await store.add_key("user:eve", of("eve", team.id))
    await store.add_key("user:eve", of("eve", team.id, expires_at=NOON + 5))
    with pytest.raises(InvalidChangeError, match="2 keys"):
        await store.add_key("user:eve", of("eve", team.id))
    await store.add_key("user:eve", of("eve", other.id))
    second = await store.replace_key("user:eve", first.id, of("eve", team.id), NOON + 3)
    with pytest.raises(InvalidChangeError, match="2 keys"):
        await store.replace_key("user:eve", second.id, of("eve", team.id), NOON + 3)
    await store.add_key("user:max", of("max", team.id))
    with pytest.raises(InvalidChangeError, match="4 keys"):
        await store.add_key("local", a_key(team.id))
    clock.now += 5
    await store.add_key("user:eve", of("eve", team.id))
    with pytest.raises(InvalidChangeError, match="2 keys"):
        await store.add_key("user:eve", of("eve", team.id))
    await store.revoke_key("user:eve", second.id)
    await store.add_key("user:eve", of("eve", team.id))


async def test_a_key_takes_the_place_of_another_at_once(store: Store) -> None:
    team = await store.create_team("local", "a")
    old = await store.add_key("local", a_key(team.id))
    new = await store.replace_key("local", old.id, a_key(team.id))
    assert await store.keys(team.id) == [new]
    for ends_at in (None, NOON + 5):
        with pytest.raises(InvalidChangeError):
            await store.replace_key("local", old.id, a_key(team.id), ends_at)
    assert await store.keys(team.id) == [new]
