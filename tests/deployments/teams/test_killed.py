"""Killed wherever it is, a process leaves a ledger that says what the engine computed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.teams.records import LedgerEntry
from deployments.teams.store import Store
from tests.support import metered_process
from tests.support.accounts import PRICE, TEAM
from tests.support.metered_process import (
    CANCELLED,
    POINTS,
    PROMPT_TOKENS,
    REFUSED,
    REQUESTS,
    TOKENS,
    MeteredProcesses,
    computed,
    url,
)

FOREVER = 4_000_000_000.0


async def ledger(directory: Path) -> dict[str, LedgerEntry]:
    """By HTTP request, each of which called the engine once; and usage says the same as the ledger."""
    store = await Store.open(url(directory))
    try:
        entries = [entry async for entry in store.entries(0.0, FOREVER)]
        (usage,) = await store.usage(0.0, FOREVER, bucket="all") or [None]
    finally:
        await store.close()
    if usage is None:
        assert not entries
    else:
        assert usage.requests == len(entries)
        assert usage.prompt_tokens == sum(entry.prompt_tokens for entry in entries)
        assert usage.completion_tokens == sum(entry.completion_tokens for entry in entries)
        assert usage.cost == sum(entry.cost for entry in entries)
    found = {str(entry.request_id): entry for entry in entries}
    assert len(found) == len(entries)
    return found


def check(booked: dict[str, LedgerEntry], directory: Path) -> None:
    """What the engine computed is booked exactly; but for one request in whose midst the process died."""
    seen = computed(directory)
    died_over = {name for name, entry in booked.items() if entry.estimated}
    assert len(died_over) <= 1
    assert seen.keys() <= booked.keys()
    assert booked.keys() - seen.keys() <= died_over, "only of one that the engine was about to get"
    for name, entry in booked.items():
        assert entry.team_id == TEAM.id
        assert entry.prompt_tokens == PROMPT_TOKENS
        assert entry.cost == PRICE.cost(entry.prompt_tokens, 0, entry.completion_tokens)
        if name in died_over:
            assert 0 <= seen.get(name, 0) - entry.completion_tokens <= 1
        else:
            assert entry.completion_tokens == seen[name]
            assert entry.kind == ("cancelled" if int(name) in CANCELLED else "completed")


@pytest.fixture(scope="module")
def processes() -> Iterator[MeteredProcesses]:
    with MeteredProcesses() as processes:
        yield processes


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    await (await Store.open(url(tmp_path))).close()
    return tmp_path


async def test_undisturbed(directory: Path, processes: MeteredProcesses) -> None:
    assert processes.one(directory) == 0
    booked = await ledger(directory)
    check(booked, directory)
    assert booked.keys() == {str(number) for number in range(REQUESTS) if number not in REFUSED}
    assert {entry.completion_tokens for entry in booked.values()} == {2, TOKENS}
    assert list((directory / "journal").iterdir()) == []


@pytest.mark.parametrize("point", POINTS)
async def test_killed_at(directory: Path, processes: MeteredProcesses, point: str) -> None:
    assert processes.one(directory, kill_at=point, nth=2) == -signal.SIGKILL
    assert processes.one(directory, adopt=True) == 0
    check(await ledger(directory), directory)
    assert list((directory / "journal").iterdir()) == []


@pytest.mark.parametrize("point", ["book.asked", "drain.booked", "drain.noted"])
async def test_killed_again_while_it_books_what_the_dead_left(
    directory: Path, processes: MeteredProcesses, point: str
) -> None:
    assert processes.one(directory, kill_at="engine.token", nth=6) == -signal.SIGKILL
    assert processes.one(directory, kill_at=point, adopt=True) == -signal.SIGKILL
    assert processes.one(directory, adopt=True) == 0
    booked = await ledger(directory)
    check(booked, directory)
    assert [entry.estimated for entry in booked.values()].count(True) == 1
    assert booked["2"].completion_tokens < metered_process.TOKENS
