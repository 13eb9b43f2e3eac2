"""The ledger holds every entry once, and usage adds up to it, in both databases."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.teams.records import Accepted, Bucket, Grouping, LedgerEntry, UsageKind, UsageRow
from deployments.teams.store import Store
from deployments.teams.store_errors import InvalidChangeError
from tests.support.stores import NOON, an_entry

HOUR = 3600.0

SUMS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "replayed_tokens", "cost")

some = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
"""Examples share a database: each has teams of its own."""


@st.composite
def entries(draw: st.DrawFn, most: int = 12) -> list[LedgerEntry]:
    """Of two teams that no other example has."""
    teams = [f"team_{uuid.uuid4()}" for _ in range(2)]
    entry = st.builds(
        an_entry,
        team_id=st.sampled_from(teams),
        key_id=st.sampled_from([None, "key_a", "key_b"]),
        model=st.sampled_from(["starcoder", "santacoder"]),
        dialect=st.sampled_from(["openai", "tabby"]),
        kind=st.sampled_from(get_args(UsageKind)),
        user=st.sampled_from([None, "ann", "ben", "a\0b"]),
        started_at=st.floats(NOON - HOUR, NOON + 26 * HOUR) | st.integers(-1, 26).map(lambda n: NOON + n * HOUR),
        prompt_tokens=st.integers(0, 10**9),
        cached_tokens=st.integers(0, 10**9),
        completion_tokens=st.integers(0, 10**9),
        replayed_tokens=st.integers(0, 10**9),
        requests=st.integers(0, 3),
        cost=st.integers(0, 10**17),
        request_id=st.none() | st.text(max_size=5),
        estimated=st.booleans(),
    )
    # The draw's own ids would be the same in every example.
    return [LedgerEntry(**{**as_dict(each), "id": str(uuid.uuid4())}) for each in draw(st.lists(entry, max_size=most))]


def as_dict(entry: LedgerEntry) -> dict[str, object]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__}


def totals(rows: Sequence[LedgerEntry | UsageRow]) -> dict[str, int]:
    return {name: sum(getattr(row, name) for row in rows) for name in SUMS}


def teams_of(booked: Sequence[LedgerEntry]) -> list[str]:
    return sorted({entry.team_id for entry in booked})


async def used(store: Store, team_ids: list[str]) -> list[UsageRow]:
    return await store.usage(0.0, NOON + 1000 * HOUR, bucket="all", team_ids=team_ids)


@some
@given(st.data())
async def test_an_entry_counts_once_however_often_and_by_whom_it_is_booked(
    store: Store, database: str, data: st.DataObject
) -> None:
    booked = data.draw(entries())
    other = await Store.open(database)
    some_of_them = st.lists(st.sampled_from(booked), max_size=20) if booked else st.just([])
    calls = [*data.draw(st.lists(some_of_them, max_size=5)), data.draw(st.permutations(booked))]
    stores = data.draw(st.lists(st.sampled_from([store, other]), min_size=len(calls), max_size=len(calls)))
    new = await asyncio.gather(*(each.book(call) for each, call in zip(stores, calls, strict=True)))
    await other.close()
    assert sum(new) == len(booked)
    team_ids = teams_of(booked)
    assert totals(await used(store, team_ids)) == totals(booked)
    on_ledger = [entry async for entry in store.entries(0.0, NOON + 1000 * HOUR, team_ids=team_ids)]
    assert totals(on_ledger) == totals(booked)
    assert [(entry.started_at, entry.id) for entry in on_ledger] == sorted((e.started_at, e.id) for e in booked)


@some
@given(
    entries(),
    st.floats(NOON - 2 * HOUR, NOON + 26 * HOUR) | st.integers(-1, 26).map(lambda n: NOON + n * HOUR),
    st.floats(0.0, 28 * HOUR) | st.integers(0, 28).map(lambda n: n * HOUR),
    st.sampled_from(get_args(Bucket)),
    st.lists(st.sampled_from(get_args(Grouping)), max_size=6),
)
async def test_usage_by_any_grouping_is_what_the_entries_say(
    store: Store, booked: list[LedgerEntry], start: float, length: float, bucket: Bucket, by: list[Grouping]
) -> None:
    await store.book(booked)
    end = start + length
    fields = {"team": "team_id", "key": "key_id"}
    names = list(dict.fromkeys(fields.get(group, group) for group in by))
    expected: dict[tuple[object, ...], list[LedgerEntry]] = defaultdict(list)
    for entry in booked:
        if start <= entry.started_at < end:
            groups = [value.replace("\0", "\ufffd") if (value := getattr(entry, name)) else None for name in names]
            expected[(*_bounds(entry.started_at, start, end, bucket), *groups)].append(entry)
    rows = await store.usage(start, end, bucket=bucket, by=by, team_ids=teams_of(booked))
    found = {(row.start, row.end, *(getattr(row, name) for name in names)): totals([row]) for row in rows}
    assert len(found) == len(rows)
    assert found == {place: totals(group) for place, group in expected.items()}
    assert [row.start for row in rows] == sorted(row.start for row in rows)


def _bounds(at: float, start: float, end: float, bucket: Bucket) -> tuple[float, float]:
    if bucket == "all":
        return start, end
    step = HOUR if bucket == "hour" else 24 * HOUR
    first = at // step * step
    return max(start, first), min(end, first + step)


async def test_usage_of_some(store: Store) -> None:
    await store.book(
        [
            an_entry(team_id="team_a", key_id="key_a", model="m", cost=1),
            an_entry(team_id="team_a", key_id="key_b", model="n", cost=10),
            an_entry(team_id="team_b", key_id="key_c", model="m", cost=100),
            an_entry(team_id="team_b", key_id=None, model="n", cost=1000, started_at=NOON + 1),
        ]
    )

    async def cost(end: float, **chosen: list[str]) -> int:
        (row,) = await store.usage(NOON, end, bucket="all", **chosen)
        return row.cost

    for end, late in (NOON + HOUR, 1000), (NOON + 1, 0):
        assert await cost(end) == 111 + late
        assert await cost(end, team_ids=["team_a"]) == 11
        assert await cost(end, key_ids=["key_a", "key_c"]) == 101
        assert await cost(end, models=["n"], team_ids=["team_a", "team_b"]) == 10 + late
        assert await store.usage(NOON, end, bucket="all", team_ids=[]) == []
    assert [e.cost async for e in store.entries(NOON, NOON + 1, models=["m"])] in ([1, 100], [100, 1])


async def test_sums_are_exact_where_floats_are_not(store: Store) -> None:
    costs = [2**53 + 1, 2**53 + 3, 2**60 + 1]
    await store.book([an_entry(team_id="team_a", cost=cost) for cost in costs])
    (row,) = await store.usage(NOON, NOON + HOUR, bucket="hour", by=["team"])
    assert row.cost == sum(costs)


async def test_all_of_a_call_is_booked_or_nothing(store: Store) -> None:
    good = an_entry(team_id="team_a", cost=2**62)
    for worse in [good, an_entry(cost=2**63)], [good, an_entry(team_id="team_a", cost=2**62)]:
        with pytest.raises(InvalidChangeError):
            await store.book(worse)
    assert await used(store, ["team_a"]) == []
    assert await store.book([good]) == 1


async def test_who_stops_waiting_leaves_nothing_half_done(database: str) -> None:
    """Wherever they stop: what was begun comes to its end, and holds up nobody."""
    store = await Store.open(database)
    booked = [an_entry(team_id="team_a", cost=1) for _ in range(40)]
    for moments, entry in enumerate(booked):
        booking = asyncio.create_task(store.book([entry]))
        for _ in range(1 + moments):
            await asyncio.sleep(0.0003)
        booking.cancel()
        await asyncio.wait([booking])
    await store.close()
    store = await Store.open(database)
    assert totals(await used(store, ["team_a"])) == totals(booked)
    assert await store.book(booked) == 0
    await store.close()


async def test_more_entries_than_a_statement_or_a_page_holds(store: Store) -> None:
    booked = [an_entry(team_id="team_a", started_at=NOON + index // 7, cost=index) for index in range(1207)]
    assert await store.book(booked) == 1207
    assert await store.book([*booked, an_entry(team_id="team_a", cost=0)]) == 1
    (row,) = await used(store, ["team_a"])
    assert (row.requests, row.cost) == (1208, sum(range(1207)))
    read = [entry.id async for entry in store.entries(NOON, NOON + HOUR)]
    assert len(set(read)) == len(read) == 1208


async def test_an_entry_is_read_as_it_was_booked(store: Store) -> None:
    plain = an_entry(key_id=None, user=None, request_id=None, kind="cancelled")
    full = an_entry(user="ann", request_id="r-1", replayed_tokens=3, requests=2, estimated=True, started_at=NOON + 0.1)
    await store.book([full, plain])
    assert [entry async for entry in store.entries(NOON, NOON + 1)] == [plain, full]


async def test_accepted_completions(store: Store) -> None:
    await store.book([an_entry(team_id="team_a", key_id="key_a", dialect="tabby", cost=7)])
    taken = Accepted(team_id="team_a", key_id="key_a", model="starcoder", dialect="tabby", at=NOON + 5, lines=3)
    await store.accepted([taken, taken])
    await store.accepted([Accepted(team_id="team_a", key_id=None, model="m", dialect="x", at=NOON, lines=1, user="u")])
    rows = await store.usage(NOON, NOON + HOUR, bucket="hour", by=["team", "key", "kind"])
    assert [(row.key_id, row.kind, row.cost, row.accepted, row.accepted_lines) for row in rows] == [
        (None, "completed", 0, 1, 1),
        ("key_a", "completed", 7, 2, 6),
    ]
    await store.accepted([])
    assert await store.book([]) == 0


async def test_nul_and_half_characters_stop_no_ledger(store: Store) -> None:
    strange = an_entry(team_id="team_a", request_id="a\0", user="\ud800", model="m\0", dialect="\0")
    assert await store.book([strange, an_entry(team_id="team_a")]) == 2
    assert await store.book([strange]) == 0
    assert totals(await used(store, ["team_a"]))["requests"] == 2
