"""What is in the journal reaches the database, whenever that is there."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from deployments.teams.drainer import LONGEST_PAUSE_S, Drainer, Progress
from deployments.teams.journal import MOST_AT_ONCE, Journal
from deployments.teams.journal_file import Waiting
from deployments.teams.records import LedgerEntry
from deployments.teams.store import Store
from deployments.teams.store_errors import StoreUnavailableError
from tests.support.accounts import FakeLedger, entry
from tests.support.log_lines import captured
from tests.support.postgres import Postgres
from tests.support.waiting import eventually


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = Journal(tmp_path / "journal")
    yield journal
    await journal.stop()


async def use(journal: Journal, first: int, last: int) -> None:
    entries = [entry(number) for number in range(first, last)]
    await asyncio.gather(*(journal.open(one).written for one in entries))
    await asyncio.gather(*map(journal.close, entries))


async def test_what_is_closed_is_booked_without_being_asked(journal: Journal) -> None:
    ledger = FakeLedger()
    drainer = Drainer(journal, ledger.book, period_s=0.001)
    drainer.start()
    await use(journal, 0, 5)
    await eventually(lambda: len(ledger.entries) == 5)
    await drainer.stop(5.0)


async def test_a_database_that_was_away_has_everything_in_the_end(journal: Journal) -> None:
    ledger, heard = FakeLedger(), list[Progress]()
    ledger.away = True
    drainer = Drainer(journal, ledger.book, heard.append, clock=lambda: 1000.0, period_s=0.001)
    drainer.start()
    await use(journal, 0, 700)
    await eventually(lambda: heard and heard[-1].waiting == 700)
    assert heard[-1].booked == 0
    assert heard[-1].oldest_s == 1000.0
    ledger.away = False
    await eventually(lambda: heard[-1].waiting == 0)
    assert sorted(ledger.entries) == [f"{number:08d}" for number in range(700)]
    assert sum(progress.booked for progress in heard) == 700
    assert heard[-1].oldest_s == 0.0
    await drainer.stop(5.0)


async def test_what_is_not_booked_in_time_is_told_and_left(journal: Journal) -> None:
    async def hangs(_: object) -> int:
        await asyncio.Event().wait()
        return 0

    await use(journal, 0, 1)
    with captured() as lines:
        await Drainer(journal, hangs).stop(0.01)
        (line,) = lines.all("usage.left_in_journal")
    assert (line["level"], line["message"]) == ("warning", "not booked within 0.01 s")
    assert await journal.waiting() == Waiting(1, entry(0).ended_at)


async def test_how_many_wait_and_since_when_is_of_one_moment(tmp_path: Path) -> None:
    closed = threading.Event()
    reached = {"close.written": closed.set}
    journal = Journal(tmp_path / "journal", reached=lambda point: reached.get(point, bool)())
    await journal.open(entry(0)).written
    asked = asyncio.create_task(journal.waiting())
    await asyncio.sleep(0)  # the journal's thread has been asked
    journal.close(entry(0, ended_at=3.0))
    closed.wait()  # and has closed the row before this loop hears its answer
    assert await asked in (Waiting(0, None), Waiting(1, 3.0))
    assert await journal.waiting() == Waiting(1, 3.0)
    await journal.stop()


async def test_it_asks_less_and_less_often_while_the_database_is_away(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    enough = asyncio.Event()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 9:
            enough.set()
            await asyncio.Event().wait()

    async def away(entries: object) -> int:
        raise StoreUnavailableError("away")

    class Draws(random.Random):
        def uniform(self, a: float, b: float) -> float:
            drawn.append((a, b))
            return b

    drawn: list[tuple[float, float]] = []
    await use(journal, 0, 1)
    drainer = Drainer(journal, away, draws=Draws())
    monkeypatch.setattr("deployments.teams.drainer.asyncio.sleep", sleep)
    with captured() as lines:
        drainer.start()
        await enough.wait()
        monkeypatch.undo()
        (line,) = lines.all("usage.not_booked")
        assert (line["level"], line["message"]) == ("warning", "away"), "it is said once"
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, *[LONGEST_PAUSE_S] * 3]
    assert set(drawn) == {(0.5, 1.0)}
    await drainer.stop(0.0)


class NoJournal:
    """Adopts, books and fails as it is told. ends: of `drain`, how many rows or an error; then the database is away."""

    refused = 0

    def __init__(self, *ends: int | Exception) -> None:
        self.ends = list(ends)
        self.adopted_at: list[float] = []

    async def adopt(self) -> int:
        self.adopted_at.append(asyncio.get_running_loop().time())
        return 0

    async def drain(self, book: object) -> int:
        end = self.ends.pop(0) if self.ends else StoreUnavailableError("away")
        if isinstance(end, Exception):
            raise end
        return end

    async def waiting(self) -> Waiting:
        return Waiting(2, 1000.0)


async def runs(journal: NoJournal, monkeypatch: pytest.MonkeyPatch, seconds: float, times: int) -> list[float]:
    """Its pauses, so many. seconds: that each of them takes."""
    pauses: list[float] = []
    enough = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def sleep(pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == times:
            enough.set()
            await asyncio.Event().wait()

    class Draws(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    drainer = Drainer(journal, None, draws=Draws(), period_s=7.0)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr("deployments.teams.drainer.asyncio.sleep", sleep)
        patch.setattr(loop, "time", lambda: 500.0 + seconds * len(pauses))
        drainer.start()
        await enough.wait()
    await drainer.stop(0.0)
    return pauses


async def test_a_success_lets_it_begin_with_short_pauses_again_and_say_so_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    away = StoreUnavailableError("away")
    with captured() as lines:
        pauses = await runs(NoJournal(away, away, away, 3, 0, away, away), monkeypatch, 0.0, 7)
        told = lines.all("usage.not_booked")
    assert pauses == [0.5, 1.0, 2.0, 7.0, 7.0, 0.5, 1.0]
    assert [line["level"] for line in told] == ["warning"] * 2


async def test_the_dead_are_looked_for_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = NoJournal(*[0] * 9)
    await runs(journal, monkeypatch, 2.5, 9)
    assert journal.adopted_at == [500.0, 510.0, 520.0]


async def test_where_the_dead_cannot_be_looked_for_now_they_are_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(NoJournal):
        async def adopt(self) -> int:
            await super().adopt()
            if len(self.adopted_at) < 3:
                raise OSError("disk I/O error")
            return 0

    journal = Broken(*[0] * 5)
    with captured() as lines:
        assert await runs(journal, monkeypatch, 1.0, 5) == [0.5, 1.0, 7.0, 7.0, 7.0]
        (line,) = lines.all("usage.not_booked")
    assert (line["level"], "disk I/O error" in line["exception"]) == ("error", True)
    assert journal.adopted_at == [500.0, 501.0, 502.0]


async def test_what_cannot_be_booked_at_the_end_is_told(journal: Journal) -> None:
    with captured() as lines:
        await Drainer(NoJournal(RuntimeError("what is this")), None).stop(60.0)  # type: ignore[arg-type]
        (line,) = lines.all("usage.left_in_journal")
    assert (line["level"], "what is this" in line["exception"], "message" in line) == ("warning", True, False)


@pytest.mark.parametrize(("now", "oldest_s"), [(1007.5, 7.5), (1000.0, 0.0), (990.0, 0.0)])
async def test_progress_is_of_what_was_handled_and_of_what_waits(now: float, oldest_s: float) -> None:
    heard: list[Progress] = []
    journal = NoJournal(MOST_AT_ONCE, MOST_AT_ONCE, MOST_AT_ONCE - 1, 9)
    drainer = Drainer(journal, None, heard.append, lambda: now)  # type: ignore[arg-type]
    assert await drainer.drain() == 3 * MOST_AT_ONCE - 1
    journal.refused = 4
    assert await drainer.drain() == 9
    with pytest.raises(StoreUnavailableError):
        await drainer.drain()
    assert heard == [
        Progress(booked=booked, refused=0, waiting=2, oldest_s=oldest_s) for booked in (3 * MOST_AT_ONCE - 1, 9, 0)
    ]


async def test_stopping_books_what_waits(journal: Journal) -> None:
    ledger = FakeLedger()
    drainer = Drainer(journal, ledger.book, period_s=1000.0)
    drainer.start()
    await use(journal, 0, 3)
    await drainer.stop(60.0)
    assert len(ledger.entries) == 3


async def test_stopping_waits_no_longer_than_it_may(journal: Journal) -> None:
    async def hangs(entries: object) -> int:
        await asyncio.Event().wait()
        return 0

    await use(journal, 0, 3)
    drainer = Drainer(journal, hangs, period_s=0.001)
    drainer.start()
    await drainer.stop(0.05)
    assert (await journal.waiting()).rows == 3


async def test_an_error_that_nobody_expected_does_not_end_it(journal: Journal) -> None:
    ledger = FakeLedger()
    fails = [True]

    async def book(entries: list[object]) -> int:
        if fails.pop() if fails else False:
            raise RuntimeError("what is this")
        return await ledger.book(entries)  # type: ignore[arg-type]

    drainer = Drainer(journal, book, period_s=0.001)  # type: ignore[arg-type]
    with captured() as lines:
        drainer.start()
        await use(journal, 0, 3)
        await eventually(lambda: len(ledger.entries) == 3)
        await drainer.stop(5.0)
        (line,) = lines.all("usage.not_booked")
        assert (line["level"], "what is this" in str(line["exception"])) == ("error", True)


async def test_a_real_database_that_is_stopped_under_it_and_started_again(journal: Journal, postgres: Postgres) -> None:
    """Requests go on meanwhile; in the end each is on the ledger, and in the sums, once."""
    store = await Store.open(postgres.url(await postgres.create()))
    drainer = Drainer(journal, store.book, period_s=0.001)
    drainer.start()
    await use(journal, 0, 50)
    with postgres.away():
        await use(journal, 50, 100)
        await eventually(lambda: drainer._failures)
    await use(journal, 100, 150)
    await eventually(lambda: not drainer._failures and not journal._files[0].closed_rows)
    await drainer.stop(60.0)
    booked = [one.id async for one in store.entries(0.0, 1000.0)]
    (sums,) = await store.usage(0.0, 3600.0, bucket="all")
    await store.close()
    assert booked == [f"{number:08d}" for number in range(150)]
    assert (sums.requests, sums.prompt_tokens) == (150, 1500)


async def test_what_the_database_refuses_for_good_holds_up_nothing(
    journal: Journal, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    too_large = [entry(3, cost=2**63), entry(4, cost=2**63 + 4), entry(600, cost=2**64 + 600)]
    for number in range(700):
        await journal.open(entry(number)).written
    await asyncio.gather(*(journal.close(one) for one in too_large))
    await asyncio.gather(*(journal.close(entry(number)) for number in range(700) if number not in (3, 4, 600)))
    heard = list[Progress]()
    drainer = Drainer(journal, store.book, heard.append)
    assert await drainer.drain() == 700
    assert [(progress.booked, progress.refused) for progress in heard] == [(697, 3)]
    assert len([one.id async for one in store.entries(0.0, 1000.0)]) == 697
    path = tmp_path / "journal" / "refused.jsonl"
    assert [msgspec.json.decode(line, type=LedgerEntry) for line in path.read_text().splitlines()] == too_large
    assert path.stat().st_mode & 0o777 == 0o600
    assert "00000600" in caplog.text
    assert (await journal.waiting()).rows == 0
