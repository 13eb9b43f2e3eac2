"""What is computed on somebody's account is counted, however the request ends; and nothing else is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest

from deployments.errors import (
    EngineUnavailableError,
    ForbiddenError,
    MeteringUnavailableError,
    OverloadedError,
    QuotaError,
)
from deployments.http import request_record
from deployments.http.metering import MeteredBackend
from deployments.protocol import WHOLE_NEWS_S, Delta, GenerationRequest
from deployments.teams.journal import Journal
from deployments.teams.principal import Principal
from deployments.teams.records import LedgerEntry
from model.request import SamplingParams
from model.text.tokenizer import Tokenizer
from tests.support.accounts import ASKER, TEAM, FakeCounters, FakeLedger, FixedBooks, asking
from tests.support.fake_backend import FakeBackend
from tests.support.waiting import eventually, settle

PROMPT = list(range(20, 60))
CACHED = 32  # of 40, by the fake


class TakenBackend(FakeBackend):
    """Says of each request that a replica has taken it, as the way to a replica does."""

    takes = True

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        if self.takes:
            request_record.taken(request.first_id)
        async with aclosing(super().stream(request)) as batches:
            async for deltas in batches:
                yield deltas


class Bench:
    """A metered backend, and all that it talks to."""

    def __init__(self, engine: TakenBackend, journal: Journal) -> None:
        self.engine = engine
        self.journal = journal
        self.counters = FakeCounters()
        self.ledger = FakeLedger()
        self.used: list[LedgerEntry] = []
        self.now = 100.0
        self.elapsed = 0.0
        self.backend = MeteredBackend(
            engine,
            "m",
            FixedBooks(),
            self.counters,
            journal,
            lambda team, owed: self.used.append(owed),
            self.clock,
            elapsed=lambda: self.elapsed,
        )

    def clock(self) -> float:
        return self.now

    async def booked(self) -> list[LedgerEntry]:
        """All that is owed. Nothing is left open, nothing is left reserved, and each was settled to what is owed."""
        assert not self.counters.open
        await self.journal._writer.rests()
        assert not self.journal._pending
        await self.journal.drain(self.ledger.book)
        assert all(file.done for file in self.journal._files)
        found = sorted(self.ledger.entries.values(), key=lambda one: one.id)
        owed = {one.id: (one.prompt_tokens + one.completion_tokens, one.cost) for one in found}
        assert {id: sums for id, sums in self.counters.settled.items() if sums != (0, 0)} == owed
        assert found == sorted(self.used, key=lambda one: one.id)
        return found


@pytest.fixture
async def bench(tokenizer: Tokenizer, tmp_path: Path) -> AsyncIterator[Bench]:
    journal = Journal(tmp_path / "journal")
    yield Bench(TakenBackend(tokenizer), journal)
    await journal.stop()


def asked(prompts: int = 1, best_of: int = 1, max_tokens: int = 6, id: str = "r") -> GenerationRequest:
    return GenerationRequest(
        request_id=id,
        prompts=[PROMPT] * prompts,
        params=SamplingParams(max_tokens=max_tokens),
        n=best_of,
        best_of=best_of,
        dialect="openai",
    )


async def read(backend: MeteredBackend, request: GenerationRequest) -> list[Delta]:
    async with aclosing(backend.stream(request)) as batches:
        return [delta async for deltas in batches for delta in deltas]


def cost(prompt: int, cached: int, completion: int) -> int:
    return (prompt - cached) * 7 + cached * 2 + completion * 11


async def test_what_was_computed_is_booked(bench: Bench) -> None:
    with asking() as record:
        await read(bench.backend, asked())
    (owed,) = await bench.booked()
    assert owed == LedgerEntry(
        id=owed.id,
        team_id="team_1",
        key_id="key_1",
        model="m",
        dialect="openai",
        kind="completed",
        started_at=100.0,
        ended_at=100.0,
        prompt_tokens=40,
        cached_tokens=CACHED,
        completion_tokens=6,
        cost=cost(40, CACHED, 6),
        request_id="http-1",
    )
    assert record.grant is not None


async def test_the_worst_case_is_reserved(bench: Bench) -> None:
    with asking():
        await bench.backend.generate(asked(prompts=2, best_of=3, max_tokens=6))
    (ask,) = bench.counters.asked
    assert (ask.tokens, ask.cost) == (80 + 2 * 3 * 6, cost(80, 0, 36))
    assert [account.id for account in ask.accounts] == ["team:team_1", "key:key_1"]
    assert [owed.id for owed in await bench.booked()] == [ask.id]


@pytest.mark.parametrize("principal", [None, "no record"])
async def test_where_nobody_is_asked_for_a_key_nothing_is_booked(bench: Bench, principal: str | None) -> None:
    if principal is None:
        with asking(None):
            plain = await bench.backend.generate(asked())
            streamed = await read(bench.backend, asked())
    else:
        plain, streamed = await bench.backend.generate(asked()), await read(bench.backend, asked())
    assert len(plain) == 1
    assert len(streamed) == 6
    assert bench.counters.asked == []
    assert await bench.booked() == []


async def test_an_administrator_has_no_account(bench: Bench) -> None:
    with asking(Principal(team=None, scopes=("admin",))), pytest.raises(ForbiddenError):
        await bench.backend.generate(asked())
    assert bench.engine.requests == []
    assert await bench.booked() == []


async def test_who_has_signed_in_is_booked_by_name_and_without_a_key(bench: Bench) -> None:
    with asking(Principal(team=TEAM, user="bob", scopes=("generate",))):
        await bench.backend.generate(asked())
    (owed,) = await bench.booked()
    assert (owed.team_id, owed.key_id, owed.user) == ("team_1", None, "bob")


async def test_a_prompt_is_paid_for_once_and_each_completion_for_itself(bench: Bench) -> None:
    with asking():
        await bench.backend.generate(asked(prompts=2, best_of=3))
    (owed,) = await bench.booked()
    assert (owed.prompt_tokens, owed.cached_tokens, owed.completion_tokens) == (80, 2 * CACHED, 2 * 3 * 6)
    assert owed.requests == 1


async def test_generate_says_what_the_backend_would_have_said(bench: Bench) -> None:
    request = asked(prompts=2, best_of=2)
    with asking():
        metered = await bench.backend.generate(request)
    assert metered == await bench.engine.generate(request)


async def test_of_a_whole_answer_news_may_be_seldom(bench: Bench) -> None:
    with asking():
        await bench.backend.generate(asked())
        await read(bench.backend, asked())
    assert [sent.news_s for sent in bench.engine.requests] == [WHOLE_NEWS_S, 0.0]


async def test_calls_of_one_http_request_are_booked_each(bench: Bench) -> None:
    with asking():
        await asyncio.gather(*(bench.backend.generate(asked(id=f"r{number}")) for number in range(3)))
    owed = await bench.booked()
    assert [one.request_id for one in owed] == ["http-1"] * 3
    assert len({one.id for one in owed}) == 3


async def test_refused_before_the_engine_is_on_no_ledger(bench: Bench) -> None:
    bench.counters.failure = QuotaError("The budget is used up.")
    with asking(), pytest.raises(QuotaError):
        await bench.backend.generate(asked())
    assert bench.engine.requests == []
    assert await bench.booked() == []


async def test_a_full_journal_refuses_before_the_engine(bench: Bench) -> None:
    with asking():
        await bench.backend.generate(asked())
    await bench.booked()
    bench.journal._most_bytes = 0
    with asking(), pytest.raises(MeteringUnavailableError):
        await bench.backend.generate(asked())
    assert len(bench.engine.requests) == 1
    assert len(await bench.booked()) == 1


async def test_a_failing_journal_refuses_before_the_engine_and_keeps_nothing_of_it(bench: Bench) -> None:
    bench.journal._own._reached = Mock(side_effect=OSError(28, "No space left on device"))
    for _ in range(20):
        with asking(), pytest.raises(MeteringUnavailableError):
            await bench.backend.generate(asked())
    assert (bench.engine.requests, bench.journal._pending) == ([], [])


@pytest.mark.parametrize("error", [OverloadedError("full"), EngineUnavailableError("dead")])
async def test_an_engine_that_said_nothing_costs_nothing(bench: Bench, error: Exception) -> None:
    bench.engine.failure, bench.engine.fail_at = error, 0
    with asking(), pytest.raises(type(error)):
        await read(bench.backend, asked())
    assert await bench.booked() == []


async def test_what_was_told_before_a_failure_is_paid_for(bench: Bench) -> None:
    bench.engine.failure, bench.engine.fail_at = EngineUnavailableError("dead"), 3
    with asking(), pytest.raises(EngineUnavailableError):
        await bench.backend.generate(asked())
    (owed,) = await bench.booked()
    assert (owed.kind, owed.prompt_tokens, owed.completion_tokens) == ("failed", 40, 3)


@pytest.mark.parametrize("whole", [False, True])
async def test_who_leaves_pays_the_prompt_and_what_was_generated(bench: Bench, whole: bool) -> None:
    bench.engine.gate = asyncio.Event()
    with asking():
        call = bench.backend.generate(asked()) if whole else read(bench.backend, asked())
        task = asyncio.create_task(call)
        await eventually(lambda: bench.engine.requests)
        await settle()
        task.cancel()
        await asyncio.wait([task])
    (owed,) = await bench.booked()
    assert (owed.kind, owed.prompt_tokens, owed.completion_tokens) == ("cancelled", 40, 1)
    assert owed.cost == cost(40, CACHED, 1)
    assert not owed.estimated
    assert bench.engine.closed == ["r"]


@pytest.mark.parametrize("whole", [False, True])
async def test_a_stream_that_is_closed_early_pays_for_what_it_has(bench: Bench, whole: bool) -> None:
    """Whoever closes it has gone away, or has all that is wanted."""
    with asking():
        batches = bench.backend.stream(asked())
        for _ in range(2):
            await anext(batches)
        if whole:
            request_record.whole("r")
        await batches.aclose()
    (owed,) = await bench.booked()
    assert (owed.kind, owed.completion_tokens) == ("completed" if whole else "cancelled", 2)


async def test_a_stream_that_is_closed_at_its_end_is_complete(bench: Bench) -> None:
    with asking():
        batches = bench.backend.stream(asked())
        for _ in range(6):
            await anext(batches)
        await batches.aclose()
    (owed,) = await bench.booked()
    assert (owed.kind, owed.completion_tokens) == ("completed", 6)


@pytest.mark.parametrize("taken", [False, True])
async def test_who_leaves_before_any_news_pays_the_prompt_if_a_replica_had_it(bench: Bench, taken: bool) -> None:
    bench.engine.gate, bench.engine.silent, bench.engine.takes = asyncio.Event(), True, taken
    with asking():
        task = asyncio.create_task(read(bench.backend, asked()))
        await eventually(lambda: bench.engine.requests)
        task.cancel()
        await asyncio.wait([task])
    found = await bench.booked()
    assert [(one.kind, one.prompt_tokens, one.completion_tokens, one.estimated) for one in found] == (
        [("cancelled", 40, 0, True)] if taken else []
    )


async def test_cancelled_wherever_it_waits_it_is_settled_and_booked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each turn of the event loop: at the counters, the journal, the engine, and the end."""

    def in_next_turn(worker: object, work: Callable[[], object], ended: Callable[..., None]) -> None:
        asyncio.get_running_loop().call_soon(lambda: ended(work(), None))

    monkeypatch.setattr("deployments.teams.worker.Worker._in_thread", in_next_turn)
    found: set[tuple[str, int]] = set()
    turns, ended = 0, False
    while not ended:
        before = len(bench.used)
        with asking():
            task = asyncio.create_task(read(bench.backend, asked(max_tokens=3)))
            await settle(turns)
            ended = task.done()
            task.cancel()
            await asyncio.wait([task])
        await bench.booked()
        found |= {(owed.kind, owed.completion_tokens) for owed in bench.used[before:]} or {("nothing", 0)}
        turns += 1
    assert turns > 8
    expected = {("nothing", 0), ("cancelled", 1), ("cancelled", 2), ("completed", 3)}
    assert expected <= found <= expected | {("cancelled", 0), ("cancelled", 3)}


async def test_the_engine_is_asked_when_the_row_is_written_and_heard_when_it_is_on_the_disk(bench: Bench) -> None:
    flush = threading.Event()
    asked_before: list[int] = []

    def reached(point: str) -> None:
        if point == "open.written":
            asked_before.append(len(bench.engine.requests))
        if point == "sync.flushed":
            assert flush.wait(60)

    bench.journal._own._reached = reached
    with asking():
        batches = bench.backend.stream(asked())
        first = asyncio.create_task(anext(batches))
        await eventually(lambda: bench.engine.requests)
        await settle()
        assert asked_before == [0]
        assert not first.done()
        flush.set()
        assert len(await first) == 1
        await batches.aclose()
    (owed,) = await bench.booked()
    assert owed.completion_tokens == 1


async def test_nothing_is_told_where_the_disk_fails(bench: Bench) -> None:
    def reached(point: str) -> None:
        if point == "sync.flushed":
            raise OSError(5, "Input/output error")

    bench.journal._own._reached = reached
    with asking(), pytest.raises(MeteringUnavailableError):
        await bench.backend.generate(asked())
    (owed,) = await bench.booked()
    assert (owed.kind, owed.completion_tokens) == ("failed", 1)


async def test_a_long_answer_is_noted_from_time_to_time_though_the_clock_is_set_back(bench: Bench) -> None:
    noted: list[LedgerEntry] = []
    bench.journal.note = noted.append  # type: ignore[method-assign]
    with asking():
        async with aclosing(bench.backend.stream(asked(max_tokens=6))) as batches:
            async for _ in batches:
                bench.elapsed += 0.4
                bench.now -= 3600.0
    assert [one.completion_tokens for one in noted] == [4]
    assert noted[0].estimated
    await bench.booked()


async def test_the_engine_hears_on_whose_account_it_works(bench: Bench) -> None:
    with asking(ASKER):
        await bench.backend.generate(asked())
    (sent,) = bench.engine.requests
    assert (sent.tenant, sent.weight, sent.service_class, sent.cache_root) == (TEAM.id, 3.0, 0, TEAM.cache_root)


async def test_only_teams_that_have_accepted_the_terms_get_completions_where_that_is_wanted(bench: Bench) -> None:
    bench.backend._terms = "v2"
    for version in (None, "v1"):
        team = msgspec.structs.replace(TEAM, terms_version=version)
        with asking(msgspec.structs.replace(ASKER, team=team)), pytest.raises(ForbiddenError) as refused:
            await bench.backend.generate(asked())
        assert (refused.value.status, refused.value.code) == (403, "terms_not_accepted")
    assert bench.engine.requests == []
    assert not bench.counters.open
    with asking(msgspec.structs.replace(ASKER, team=msgspec.structs.replace(TEAM, terms_version="v2"))):
        await bench.backend.generate(asked())
    await bench.booked()
