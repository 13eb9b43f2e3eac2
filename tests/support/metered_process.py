"""An ingress process in small, which is killed at a named point.

It answers requests one after the other on a team's account, by an engine that writes down what it computes, and books
in between. `adopt` only books what others have left.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

from deployments.errors import OverloadedError
from deployments.health import HealthReport
from deployments.http import metering, request_record
from deployments.http.metering import MeteredBackend
from deployments.protocol import Delta, GenerationRequest, ModelInfo
from deployments.teams import journal as journals
from deployments.teams.journal import Journal
from deployments.teams.local_counters import LocalCounters
from deployments.teams.records import LedgerEntry
from deployments.teams.store import Store
from model.request import SamplingParams
from tests.support.accounts import FixedBooks, asking
from tests.support.forks import Forks
from tests.support.waiting import eventually

PROMPT_TOKENS = 40
TOKENS = 4
REQUESTS = 8

CANCELLED, REFUSED = (2, 6), (1, 5)
"""Requests whose client leaves after two tokens, and those for which the engine has no room."""

_KINDS = ("open", "note", "close", "withdraw")
POINTS = (
    *(f"{kind}.{point}" for kind in _KINDS for point in ("asked", "written")),
    *("sync.flushed", "engine.asked", "engine.token", "book.asked", "drain.booked", "drain.noted"),
)


def url(directory: Path) -> str:
    return f"sqlite+aiosqlite:///{directory / 'teams.sqlite'}"


class MeteredProcesses(Forks):
    def __init__(self) -> None:
        super().__init__(__name__, live.__name__)

    def one(self, directory: Path, *, kill_at: str = "never", nth: int = 1, adopt: bool = False) -> int:
        """Start one; its exit status when it has ended, -9 where it was killed."""
        [status] = self.run([str(directory), kill_at, str(nth), "adopt" if adopt else "serve"])
        return status


def computed(directory: Path) -> dict[str, int]:
    """By HTTP request, how many tokens the engine has generated; its prompt was computed, too."""
    said = (directory / "computed").read_text().split() if (directory / "computed").exists() else []
    return {request: times - 1 for request, times in Counter(said).items()}


class Killer:
    def __init__(self, point: str, nth: int) -> None:
        self._point = point
        self._left = nth

    def __call__(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)


class CountingEngine:
    """Says `TOKENS` tokens. What it computes is in a file before anybody hears of it."""

    def __init__(self, directory: Path, journal: Journal, reached: Killer) -> None:
        self._file = os.open(directory / "computed", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        self._journal = journal
        self._reached = reached

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        name = request.request_id
        if int(name) in REFUSED:
            raise OverloadedError("There is no room.")
        request_record.taken(name)
        self._reached("engine.asked")
        self._computes(name)
        for number in range(TOKENS):
            self._computes(name)
            self._reached("engine.token")
            yield [Delta(index=0, token_ids=[number], finish_reason="length" if number == TOKENS - 1 else None)]
            await eventually(self._is_noted)

    def _is_noted(self) -> bool:
        return not self._journal._notes and self._journal._writer.resting

    def _computes(self, name: str) -> None:
        os.write(self._file, f"{name}\n".encode())

    async def generate(self, request: GenerationRequest) -> list[Delta]:
        raise NotImplementedError

    async def health(self) -> HealthReport:
        raise NotImplementedError

    async def info(self) -> ModelInfo:
        raise NotImplementedError


async def main(directory: Path, reached: Killer, adopt: bool) -> None:
    metering.NOTED_S = journals.NOTED_S = 0.0
    store = await Store.open(url(directory))
    journal = Journal(directory / "journal", reached=reached)

    async def book(entries: Sequence[LedgerEntry]) -> int:
        reached("book.asked")
        return await store.book(entries)

    if adopt:
        await journal.adopt()
    else:
        backend = MeteredBackend(
            CountingEngine(directory, journal, reached), "m", FixedBooks(), LocalCounters(), journal
        )
        for number in range(REQUESTS):
            await ask(backend, number)
            if number % 3 == 2:
                await journal.drain(book)
    await journal.drain(book)
    await journal.stop()
    await store.close()


async def ask(backend: MeteredBackend, number: int) -> None:
    request = GenerationRequest(
        request_id=str(number), prompts=[[1] * PROMPT_TOKENS], params=SamplingParams(max_tokens=TOKENS)
    )
    with asking(request_id=str(number)):
        try:
            async with aclosing(backend.stream(request)) as batches:
                heard = 0
                async for _ in batches:
                    heard += 1
                    if number in CANCELLED and heard == 2:
                        break
        except OverloadedError:
            assert number in REFUSED


def live(place: str, kill_at: str, nth: str, mode: str) -> None:
    asyncio.run(main(Path(place), Killer(kill_at, int(nth)), mode == "adopt"))
