"""Whoever asks for something pays for it: what is done around each call of the engine on somebody's account.

Reserve the worst case, write into the journal that it begins, let the engine work and count what comes, close the row,
and settle the reservation: on every path. The row is written before the engine is asked: whenever this process is
killed, nothing was computed that is not written down. It is on the disk before the first word is passed on: whenever
the machine loses power, nothing was told that is not. So the disk has as long as the engine takes for the prompt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Protocol

import msgspec

from deployments.errors import ForbiddenError, MeteringUnavailableError, shown
from deployments.health import HealthReport
from deployments.http import request_record
from deployments.http.meter import Meter
from deployments.http.request_record import RequestRecord
from deployments.protocol import WHOLE_NEWS_S, Backend, Delta, GenerationRequest, ModelInfo, gathered
from deployments.teams.counting import Account, Ask, Counters
from deployments.teams.ids import uuid7
from deployments.teams.journal import NOTED_S, Journal, JournalError
from deployments.teams.principal import Principal
from deployments.teams.records import LedgerEntry, Price, ServiceClass, Team

RETRY_AFTER_S = 5.0


class Books(Protocol):
    """What is known of accounts and prices without asking anybody."""

    def accounts(self, principal: Principal) -> tuple[Account, ...]:
        """The team's, then the key's."""
        ...

    def price(self, model: str) -> Price:
        """Of now."""
        ...


class MeteredBackend:
    """A `Backend` that books what is computed for somebody; where nobody is asked for a key, it does nothing.

    model: the served one. used: hears of every entry that is going to be booked, with its team.
    deadlines: by class of the team, the longest wait for a first token, in seconds. elapsed: seconds, of a clock that
    never goes back. terms: version of the use restrictions that teams have to have accepted; None: none has to.
    """

    def __init__(
        self,
        backend: Backend,
        model: str,
        books: Books,
        counters: Counters,
        journal: Journal,
        used: Callable[[Team, LedgerEntry], None] = lambda team, entry: None,
        clock: Callable[[], float] = time.time,
        deadlines: Mapping[ServiceClass, float] | None = None,
        elapsed: Callable[[], float] = time.monotonic,
        terms: str | None = None,
    ) -> None:
        self._backend = backend
        self._model = model
        self._books = books
        self._counters = counters
        self._journal = journal
        self._used = used
        self._clock = clock
        self._deadlines = deadlines or {}
        self._elapsed = elapsed
        self._terms = terms

    def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        """Raises RateLimitedError, QuotaError, MeteringUnavailableError, ForbiddenError, and what the backend does."""
        record = request_record.current()
        if record is None or record.principal is None:
            return self._backend.stream(request)
        return self._metered(request, record, record.principal)

    async def generate(self, request: GenerationRequest) -> list[Delta]:
        """On somebody's account it is a stream, too, of which there is news ten times a second: who leaves pays it."""
        record = request_record.current()
        if record is None or record.principal is None:
            return await self._backend.generate(request)
        told = msgspec.structs.replace(request, news_s=WHOLE_NEWS_S)
        return await gathered(self._metered(told, record, record.principal))

    async def health(self) -> HealthReport:
        return await self._backend.health()

    async def info(self) -> ModelInfo:
        return await self._backend.info()

    async def _metered(
        self, request: GenerationRequest, record: RequestRecord, principal: Principal
    ) -> AsyncGenerator[list[Delta], None]:
        if (team := principal.team) is None:
            raise ForbiddenError("This key belongs to no team, which could pay for what is generated.")
        self._check_terms(team)
        asked = self._entry(request, record, principal, team)
        meter = Meter(request, asked, self._books.price(self._model))
        accounts = self._books.accounts(principal)
        record.grant = await self._counters.reserve(
            Ask(id=asked.id, accounts=accounts, tokens=meter.most_tokens, cost=meter.most_cost)
        )
        owed: LedgerEntry | None = None
        try:
            on_disk = await self._begin(meter)
            call = self._backend.stream(on_account(request, principal, team, self._deadlines))
            async with aclosing(call) as batches:
                noted_at = self._elapsed()
                async for deltas in batches:
                    meter.saw(deltas)
                    if on_disk is not None:
                        await _not_refused(on_disk)
                        on_disk = None
                    if (now := self._elapsed()) - noted_at >= NOTED_S:
                        self._journal.note(meter.so_far(self._clock()))
                        noted_at = now
                    yield deltas
            owed = meter.ended(self._clock())
        except (GeneratorExit, asyncio.CancelledError):
            owed = meter.ended(self._clock(), "completed" if request.request_id in record.whole_ids else "cancelled")
            if owed is None and request.request_id in record.taken_ids:
                owed = meter.left_unheard(self._clock())
            raise
        except Exception:
            owed = meter.ended(self._clock(), "failed")
            raise
        finally:
            self._end(asked, owed, team)

    def _check_terms(self, team: Team) -> None:
        if self._terms is not None and team.terms_version != self._terms:
            raise ForbiddenError(
                f"Team {team.name} has not accepted the use restrictions {shown(self._terms)} (see /terms): one of its "
                "owners does so, or an administrator, by `starcoder teams accept-terms`.",
                code="terms_not_accepted",
            )

    async def _begin(self, meter: Meter) -> asyncio.Future[None] | None:
        """What there is to wait for before anything is passed on."""
        try:
            opened = self._journal.open(meter.asked())
        except JournalError as error:
            raise _refusal() from error
        await _not_refused(opened.written)
        return opened.on_disk

    def _end(self, asked: LedgerEntry, owed: LedgerEntry | None, team: Team) -> None:
        """Nothing here waits: whoever cancels the request cuts none of it short."""
        if owed is None:
            self._journal.withdraw(asked)
            owed = asked
        else:
            self._journal.close(owed)
            self._used(team, owed)
        self._counters.settle(owed.id, owed.prompt_tokens + owed.completion_tokens, owed.cost)

    def _entry(
        self, request: GenerationRequest, record: RequestRecord, principal: Principal, team: Team
    ) -> LedgerEntry:
        """With nothing in it."""
        now = self._clock()
        return LedgerEntry(
            id=uuid7(now),
            team_id=team.id,
            key_id=None if principal.key is None else principal.key.id,
            model=self._model,
            dialect=request.dialect,
            kind="failed",
            started_at=now,
            ended_at=now,
            prompt_tokens=0,
            cached_tokens=0,
            completion_tokens=0,
            cost=0,
            request_id=record.request_id or None,
            user=principal.user,
        )


async def _not_refused(done: asyncio.Future[None]) -> None:
    try:
        await done
    except JournalError as error:
        raise _refusal() from error


def _refusal() -> MeteringUnavailableError:
    return MeteringUnavailableError("What is used cannot be written down now.", retry_after=RETRY_AFTER_S)


def on_account(
    request: GenerationRequest, principal: Principal, team: Team, deadlines: Mapping[ServiceClass, float]
) -> GenerationRequest:
    """The request as an engine gets it, with what fairness and the cache need to know of whose it is."""
    return msgspec.structs.replace(
        request,
        tenant=team.id,
        weight=team.weight,
        service_class=principal.class_number,
        cache_root=team.cache_root,
        deadline_s=deadlines.get(team.service_class),
    )
