"""Teams, keys, people and prices, in both databases."""

from __future__ import annotations

import asyncio

import pytest

from deployments.teams.records import Budget, LedgerEntry, Limits, Member, Price
from deployments.teams.store import Store
from deployments.teams.store_errors import InvalidChangeError, NameTakenError, NotFoundError
from tests.support.stores import NOON, PEPPER, Clock, a_key, an_entry

LIMITS = Limits(requests_per_minute=60, tokens_per_minute=10**13, parallel=4)


async def test_a_team_is_read_as_it_was_made(store: Store) -> None:
    budget = Budget(amount=10**16, period="week", hard=True)
    made = await store.create_team(
        "local", "payments", weight=2.5, service_class="interactive", limits=LIMITS, budget=budget
    )
    assert made.id.startswith("team_")
    assert (made.created_at, made.weight, made.budget, made.limits) == (NOON, 2.5, budget, LIMITS)
    assert await store.team(made.id) == await store.team("payments") == made
    other = await store.create_team("local", "a-2_b.c")
    assert other.cache_root != made.cache_root
    assert len(other.cache_root) >= 32
    assert await store.teams() == [other, made]


@pytest.mark.parametrize("name", ["", "A", "a b", "é", "a" * 65, "a\n", "a\0", "default", "other", ".", ".."])
async def test_what_is_no_name_is_refused(store: Store, name: str) -> None:
    with pytest.raises(InvalidChangeError):
        await store.create_team("local", name)
    assert await store.audit() == []


async def test_a_name_belongs_to_one_team_until_it_is_archived(store: Store, clock: Clock) -> None:
    first = await store.create_team("local", "payments")
    second = await store.create_team("local", "search")
    with pytest.raises(NameTakenError):
        await store.create_team("local", "payments")
    with pytest.raises(NameTakenError):
        await store.set_team("local", second.id, name="payments")
    clock.now += 1
    assert (await store.archive_team("local", first.id)).archived_at == NOON + 1
    renamed = await store.set_team("local", second.id, name="payments")
    assert await store.team("payments") == renamed
    assert await store.team(first.id) == await store.archive_team("local", first.id)
    assert await store.teams() == [renamed]
    assert {team.id for team in await store.teams(archived=True)} == {first.id, second.id}
    with pytest.raises(InvalidChangeError):
        await store.set_team("local", first.id, weight=2.0)


async def test_of_many_who_want_a_name_at_once_one_gets_it(store: Store, database: str) -> None:
    other = await Store.open(database)
    tries = [s.create_team("local", "payments") for s in (store, other) * 4]
    results = await asyncio.gather(*tries, return_exceptions=True)
    await other.close()
    assert sum(isinstance(result, NameTakenError) for result in results) == len(tries) - 1
    assert len(await store.teams()) == 1


async def test_only_what_is_given_changes(store: Store) -> None:
    team = await store.create_team("local", "payments", weight=2.0, limits=LIMITS, budget=Budget(amount=5))
    changed = await store.set_team("key:k", team.id, budget=None, service_class="batch")
    assert (changed.budget, changed.service_class, changed.weight, changed.limits) == (None, "batch", 2.0, LIMITS)
    (_, change) = await store.audit()
    assert change.detail == {
        "service_class": "batch",
        "service_class_before": "standard",
        "budget_amount": None,
        "budget_amount_before": 5,
        "budget_period": None,
        "budget_period_before": "month",
        "budget_hard": None,
        "budget_hard_before": False,
    }
    assert await store.set_team("key:k", team.id, weight=2.0) == changed
    assert len(await store.audit()) == 2
    with pytest.raises(NotFoundError):
        await store.set_team("local", "team_none", weight=1.0)


@pytest.mark.parametrize("weight", [0.0, -1.0, 1e-18, 0.0009, 1001.0, float("nan"), float("inf")])
async def test_a_weight_is_neither_nothing_nor_everything(store: Store, weight: float) -> None:
    with pytest.raises(InvalidChangeError):
        await store.create_team("local", "payments", weight=weight)


async def test_numbers_that_fit_no_column_are_refused(store: Store) -> None:
    for number in (-1, 2**63):
        with pytest.raises(InvalidChangeError, match=f"^parallel of {number}:"):
            await store.create_team("local", "a", limits=Limits(parallel=number))
        with pytest.raises(InvalidChangeError, match=f"^budget of {number}:"):
            await store.create_team("local", "a", budget=Budget(amount=number))
    await store.create_team("local", "a", limits=Limits(parallel=2**63 - 1))


async def test_terms_are_accepted_by_somebody(store: Store) -> None:
    team = await store.create_team("local", "payments")
    accepted = await store.accept_terms("user:ann", team.id, "2023-05")
    assert (accepted.terms_version, accepted.terms_accepted_by, accepted.terms_accepted_at) == (
        *("2023-05", "user:ann"),
        NOON,
    )
    assert await store.team(team.id) == accepted


async def test_keys(store: Store, clock: Clock) -> None:
    team = await store.create_team("local", "payments")
    mine = await store.add_key("local", a_key(team.id, expires_at=NOON + 9, limits=LIMITS))
    admin = await store.add_key("local", a_key(None, expires_at=NOON + 5, name="a\0b\ud800"))
    assert await store.key(mine.id) == mine
    assert (await store.key(admin.id)).name == "a\ufffdb\ufffd"
    assert await store.keys(team.id) == await store.keys(admin=False) == [mine]
    assert [key.id for key in await store.keys(admin=True)] == [admin.id]
    clock.now += 5
    changed = await store.set_key("local", admin.id, expires_at=None, name="root", limits=LIMITS)
    assert (changed.expires_at, changed.name, changed.limits) == (None, "root", LIMITS)
    assert (await store.revoke_key("local", admin.id)).revoked_at == NOON + 5
    clock.now += 1
    assert (await store.revoke_key("local", admin.id)).revoked_at == NOON + 5
    assert await store.keys() == [mine]
    assert {key.id for key in await store.keys(revoked=True)} == {mine.id, admin.id}
    with pytest.raises(InvalidChangeError):
        await store.set_key("local", admin.id, name="again")
    with pytest.raises(NotFoundError):
        await store.key("key_none")


async def test_keys_that_cannot_be(store: Store) -> None:
    team = await store.create_team("local", "payments")
    key = await store.add_key("local", a_key(team.id))
    with pytest.raises(NotFoundError):
        await store.add_key("local", a_key("team_none"))
    with pytest.raises(InvalidChangeError):
        await store.add_key("local", a_key(team.id, scopes=("generate", "admin")))
    with pytest.raises(InvalidChangeError):
        await store.add_key("local", key)
    await store.archive_team("local", team.id)
    with pytest.raises(InvalidChangeError):
        await store.add_key("local", a_key(team.id))
    assert (await store.key(key.id)).revoked_at == NOON
    assert [row.action for row in await store.audit()] == [
        *("team.created", "key.created", "key.revoked", "team.archived"),
    ]


async def test_members(store: Store, clock: Clock) -> None:
    payments = await store.create_team("local", "payments")
    search = await store.create_team("local", "search")
    ann = await store.set_member("local", Member(user="ann", team_id=payments.id, role="owner", email="ann@x.org"))
    assert ann.created_at == NOON
    clock.now += 1
    ben = await store.set_member("user:ann", Member(user="ben", team_id=payments.id, role="viewer"))
    also = await store.set_member("local", Member(user="ann", team_id=search.id, role="viewer"))
    clock.now += 1
    ben = await store.set_member("user:ann", Member(user="ben", team_id=payments.id, role="member", name="Ben"))
    assert (ben.role, ben.created_at) == ("member", NOON + 1)
    assert await store.members(payments.id) == [ann, ben]
    assert await store.members() == [ann, also, ben]
    assert await store.memberships("ann") == [ann, also]
    number = len(await store.audit())
    await store.set_member("user:ann", ben)
    assert len(await store.audit()) == number
    await store.archive_team("local", search.id)
    assert await store.memberships("ann") == [ann]
    await store.remove_member("local", payments.id, "ben")
    assert await store.members(payments.id) == [ann]
    with pytest.raises(NotFoundError):
        await store.remove_member("local", payments.id, "ben")
    with pytest.raises(NotFoundError):
        await store.set_member("local", Member(user="ann", team_id="team_none", role="owner"))


async def test_sessions_end(store: Store, clock: Clock) -> None:
    session = await store.create_session(b"1" * 32, "ann", "ann@x.org", None, NOON + 10)
    await store.create_session(b"2" * 32, "ann", None, "Ann", NOON + 20)
    await store.create_session(b"3" * 32, "ben", None, None, NOON + 20)
    assert await store.session(b"1" * 32) == session
    assert await store.session(b"4" * 32) is None
    await store.end_session(b"3" * 32)
    assert await store.session(b"3" * 32) is None
    clock.now = NOON + 10
    assert await store.session(b"1" * 32) is None
    assert await store.session(b"2" * 32) is not None
    assert await store.end_sessions("ann") == 2
    assert await store.session(b"2" * 32) is None
    await store.create_session(b"5" * 32, "ben", None, None, NOON + 11)
    clock.now = NOON + 11
    await store.create_session(b"6" * 32, "cat", None, None, NOON + 20)
    assert await store.end_sessions("ben") == 0, "sessions that have expired stay in the database"


async def test_prices_are_followed_not_changed(store: Store) -> None:
    price = Price(model="starcoder", input=315_000, cached=0, output=315_000, valid_from=0.0)
    later = Price(model="starcoder", input=1, cached=2, output=3, valid_from=NOON)
    other = Price(model="santacoder", input=4, cached=5, output=6, valid_from=0.0)
    for each in (price, later, other):
        await store.set_price("local", each)
    for wrong in (price, Price(model="starcoder", input=9, cached=9, output=9, valid_from=NOON - 1)):
        with pytest.raises(InvalidChangeError):
            await store.set_price("local", wrong)
    for name in ("input", "cached", "output"):
        amounts = {"input": 0, "cached": 0, "output": 0} | {name: -1}
        with pytest.raises(InvalidChangeError, match=f"^{name} price of -1 "):
            await store.set_price("local", Price(model="m", valid_from=0.0, **amounts))
    assert await store.prices() == [other, price, later]


async def test_a_snapshot_is_what_requests_are_checked_against(store: Store) -> None:
    empty = await store.snapshot()
    assert empty is not None
    assert (empty.version, empty.teams, empty.keys, empty.closed) == (0, {}, {}, False)
    assert await store.snapshot(0) is None
    team = await store.create_team("local", "payments")
    gone = await store.create_team("local", "gone")
    good, bad = a_key(team.id, secret="sk-good"), a_key(team.id)
    for key in (good, bad, a_key(gone.id)):
        await store.add_key("local", key)
    await store.revoke_key("local", bad.id)
    await store.archive_team("local", gone.id)
    price = await store.set_price("local", Price(model="m", input=1, cached=1, output=1, valid_from=0.0))
    snapshot = await store.snapshot(empty.version)
    assert snapshot is not None
    assert snapshot.teams == {team.id: team}
    assert snapshot.keys == {PEPPER.digest("sk-good"): good}
    assert snapshot.prices == (price,)
    assert snapshot.version == (await store.audit(newest_first=True, limit=1))[0].number
    assert await store.snapshot(snapshot.version) is None
    await store.revoke_key("local", good.id)
    last = await store.snapshot(snapshot.version)
    assert last is not None
    assert not last.keys
    assert last.closed, "without any key that is good, the door stands open"


async def test_every_change_raises_the_version(store: Store) -> None:
    team = await store.create_team("local", "payments")
    key = a_key(team.id)
    member = Member(user="ann", team_id=team.id, role="owner")
    changes = [
        lambda: store.set_team("local", team.id, weight=3.0),
        lambda: store.accept_terms("local", team.id, "1"),
        lambda: store.add_key("local", key),
        lambda: store.set_key("local", key.id, name="other"),
        lambda: store.revoke_key("local", key.id),
        lambda: store.set_member("local", member),
        lambda: store.remove_member("local", team.id, "ann"),
        lambda: store.set_price("local", Price(model="m", input=1, cached=1, output=1, valid_from=0.0)),
        lambda: store.archive_team("local", team.id),
    ]
    for number, change in enumerate(changes, start=2):
        await change()
        snapshot = await store.snapshot(number - 1)
        assert snapshot is not None
        assert snapshot.version == number


async def test_what_a_team_spent_in_the_period_of_its_budget(store: Store, clock: Clock) -> None:
    """NOON is a Friday, the 15th."""
    day, hour = 86400.0, 3600.0
    budgets = {period: Budget(amount=1, period=period) for period in ("day", "week", "month")}
    teams = {name: await store.create_team("local", name, budget=budget) for name, budget in budgets.items()}
    await store.create_team("local", "without")
    ago = {0.0: 1, 13 * hour: 10, 4 * day: 100, 5 * day: 1000, 14 * day: 10_000, 15 * day: 100_000}

    def entries(team_id: str) -> list[LedgerEntry]:
        return [an_entry(team_id=team_id, started_at=NOON - seconds, cost=cost) for seconds, cost in ago.items()]

    for team in teams.values():
        await store.book(entries(team.id))
    spent = await store.spent()
    assert {name: (spent[team.id].amount, NOON - spent[team.id].period_start) for name, team in teams.items()} == {
        "day": (1, day / 2),
        "week": (111, 4.5 * day),
        "month": (11_111, 14.5 * day),
    }
    assert len(spent) == 3
    clock.now = NOON + 31 * day
    assert {each.amount for each in (await store.spent()).values()} == {0}
