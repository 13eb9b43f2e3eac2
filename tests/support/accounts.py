"""Teams on whose account tests ask, and fakes of what counts and keeps their use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from deployments.http import request_record
from deployments.http.request_record import RequestRecord
from deployments.teams.counting import Account, Ask, BudgetUse, Grant
from deployments.teams.journal import Journal
from deployments.teams.principal import Principal
from deployments.teams.records import Key, LedgerEntry, Price, Team
from deployments.teams.store_errors import InvalidChangeError, StoreUnavailableError

TEAM = Team(id="team_1", name="red", created_at=0.0, weight=3.0, service_class="interactive", cache_root="ab" * 16)
KEY = Key(
    id="key_1",
    team_id=TEAM.id,
    name="laptop",
    digest=b"\0" * 32,
    pepper_id="0",
    last_four="abcd",
    scopes=("generate",),
    created_at=0.0,
    created_by="local",
)
ASKER = Principal(team=TEAM, key=KEY, scopes=("generate",))
PRICE = Price(model="m", input=7, cached=2, output=11, valid_from=0.0)


def entry(number: int, **fields: object) -> LedgerEntry:
    """The one with this number, of a request that has just begun."""
    values: dict[str, object] = {
        "id": f"{number:08d}",
        "team_id": TEAM.id,
        "key_id": KEY.id,
        "model": "m",
        "dialect": "openai",
        "kind": "failed",
        "started_at": float(number),
        "ended_at": float(number),
        "prompt_tokens": 10,
        "cached_tokens": 0,
        "completion_tokens": 0,
        "cost": 70,
    }
    return LedgerEntry(**values | fields)  # type: ignore[arg-type]


@contextmanager
def asking(principal: Principal | None = ASKER, request_id: str = "http-1") -> Iterator[RequestRecord]:
    """What this task does is done for a request of theirs."""
    before = request_record.current()
    record = RequestRecord(request_id, "POST", "/v1/completions", principal=principal)
    record.make_current()
    try:
        yield record
    finally:
        request_record._current.set(before)


class FixedBooks:
    def accounts(self, principal: Principal) -> tuple[Account, ...]:
        assert principal.team is not None
        return (Account(id=f"team:{principal.team.id}"), Account(id="key:key_1"))

    def price(self, model: str) -> Price:
        return PRICE


class FakeCounters:
    """asked: every `reserve`. open: what is reserved and not settled. settled: what each came to, by id.

    failure: of `reserve`.
    """

    def __init__(self) -> None:
        self.asked: list[Ask] = []
        self.open: dict[str, Ask] = {}
        self.settled: dict[str, tuple[int, int]] = {}
        self.failure: Exception | None = None

    async def reserve(self, ask: Ask) -> Grant:
        self.asked.append(ask)
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.open[ask.id] = ask
        return Grant()

    def settle(self, id: str, tokens: int, cost: int) -> None:
        assert id not in self.settled, "settled twice"
        del self.open[id]
        self.settled[id] = (tokens, cost)

    async def budgets(self) -> list[BudgetUse]:
        return []

    async def close(self) -> None: ...


class FakeLedger:
    """`book` as the store does it. away: it raises. late: it books, and then raises; nobody knows which it was.

    LARGEST: it refuses all of a call where a number of one is larger.
    """

    LARGEST = 2**63 - 1

    def __init__(self) -> None:
        self.entries: dict[str, LedgerEntry] = {}
        self.away = False
        self.late = False
        self.calls = 0

    async def book(self, entries: Sequence[LedgerEntry]) -> int:
        self.calls += 1
        await asyncio.sleep(0)
        if self.away:
            raise StoreUnavailableError("The database does not answer.")
        if any(one.cost > self.LARGEST for one in entries):
            raise InvalidChangeError("This does not fit the tables of the database.")
        new = [one for one in entries if one.id not in self.entries]
        self.entries |= {one.id: one for one in new}
        if self.late:
            raise StoreUnavailableError("The database has not answered in time.")
        return len(new)


async def die(journal: Journal) -> None:
    """As a killed process leaves it: the rows are there, and the lock is free."""
    await journal._flusher.rests()
    for file in journal._files:
        await journal._writer.do(file.abandon)
    journal._writer.stop()
    journal._flusher.stop()
    journal._stopped = True
