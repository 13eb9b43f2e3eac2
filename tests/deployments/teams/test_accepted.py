"""What people took into their text reaches the database, and no editor waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from deployments.teams.accepted import AcceptedBuffer
from deployments.teams.records import Accepted
from deployments.teams.store import Store
from deployments.teams.store_errors import StoreUnavailableError
from tests.support.log_lines import captured
from tests.support.stores import NOON
from tests.support.waiting import settle

HOUR = 3600


class Kept:
    """A database that may be away, and that answers when the gate opens, where there is one."""

    def __init__(self) -> None:
        self.away = False
        self.events: list[Accepted] = []
        self.told = asyncio.Event()
        self.asked = asyncio.Event()
        self.gate: asyncio.Event | None = None

    async def accepted(self, events: Sequence[Accepted]) -> None:
        self.asked.set()
        await (asyncio.sleep(0) if self.gate is None else self.gate.wait())
        if self.away:
            raise StoreUnavailableError("the database does not answer")
        self.events += events
        self.told.set()

    def sums(self) -> dict[tuple[str, float], tuple[int, int]]:
        found: dict[tuple[str, float], tuple[int, int]] = {}
        for event in self.events:
            place = (event.team_id, event.at // HOUR)
            lines, completions = found.get(place, (0, 0))
            found[place] = lines + event.lines, completions + event.completions
        return found


def event(team: str = "team_a", hour: int = 0, lines: int = 1) -> Accepted:
    return Accepted(
        team_id=team, key_id="key_a", model="starcoder", dialect="tabby", at=NOON + hour * HOUR, lines=lines
    )


STEPS = st.lists(
    st.one_of(
        st.builds(event, st.sampled_from(["team_a", "team_b"]), st.integers(0, 2), st.integers(1, 9)),
        st.sampled_from(["flush", "away", "back"]),
    ),
    max_size=30,
)


@given(STEPS)
def test_every_event_is_counted_once_whatever_the_database_does(steps: list[Accepted | str]) -> None:
    kept, told = Kept(), Kept()

    async def go() -> None:
        buffer = AcceptedBuffer(lambda: kept)
        for step in steps:
            if isinstance(step, Accepted):
                told.events.append(step)
                buffer.add(step)
            elif step == "flush":
                await buffer.flush()
            else:
                kept.away = step == "away"
        kept.away = False
        await buffer.flush()

    asyncio.run(go())
    assert kept.sums() == told.sums()


async def test_what_is_cancelled_while_it_is_told_is_counted_once() -> None:
    kept = Kept()
    kept.gate = asyncio.Event()
    buffer = AcceptedBuffer(lambda: kept)
    buffer.add(event())
    running = asyncio.create_task(buffer.run(flush_s=0.0))
    await kept.asked.wait()
    running.cancel()
    await asyncio.wait([running])
    buffer.add(event(lines=2))
    last = asyncio.create_task(buffer.flush())
    await settle()
    kept.gate.set()
    await last
    assert kept.sums() == {("team_a", NOON // HOUR): (3, 2)}


async def test_it_is_bounded() -> None:
    kept = Kept()
    kept.away = True
    buffer = AcceptedBuffer(lambda: kept, most=3)
    for number in range(10):
        buffer.add(event(f"team_{number}"))
        buffer.add(event("team_0"))
        await buffer.flush()
    kept.away = False
    await buffer.flush()
    assert sorted(kept.sums()) == [(f"team_{number}", NOON // HOUR) for number in range(3)]
    assert kept.sums()["team_0", NOON // HOUR] == (11, 11)


async def test_that_they_wait_is_said_once_each_time() -> None:
    kept = Kept()
    buffer = AcceptedBuffer(lambda: kept)
    with captured() as lines:
        for away in (True, True, False, True, True):
            kept.away = away
            buffer.add(event())
            await buffer.flush()
        told = lines.all("teams.accepted_wait")
    assert [(line["level"], line["message"]) for line in told] == [("warning", "the database does not answer")] * 2


async def test_sums_are_of_what_is_alike_in_everything() -> None:
    kept = Kept()
    buffer = AcceptedBuffer(lambda: kept)
    others = [{"team_id": "b"}, {"key_id": None}, {"model": "m"}, {"dialect": "openai"}, {"user": "ada"}]
    events = [event(), *(msgspec.structs.replace(event(), **other) for other in others), event(hour=1)]
    for one in events + events:
        buffer.add(msgspec.structs.replace(one, at=one.at + 59.0))
    await buffer.flush()
    assert [(one.lines, one.completions) for one in kept.events] == [(2, 2)] * len(events)


async def test_without_a_database_it_waits() -> None:
    kept = Kept()
    keepers: list[Kept | None] = [None]
    buffer = AcceptedBuffer(lambda: keepers[0])
    buffer.add(event())
    await buffer.flush()
    keepers[0] = kept
    running = asyncio.create_task(buffer.run(flush_s=0.001))
    await kept.told.wait()
    running.cancel()
    assert kept.sums() == {("team_a", NOON // HOUR): (1, 1)}


async def test_usage_shows_what_was_accepted(store: Store) -> None:
    buffer = AcceptedBuffer(lambda: store)
    for lines in (3, 4):
        buffer.add(event(lines=lines))
    await buffer.flush()
    (row,) = await store.usage(NOON, NOON + HOUR, bucket="all", by=("team", "dialect"))
    assert (row.team_id, row.dialect, row.accepted, row.accepted_lines) == ("team_a", "tabby", 2, 7)
