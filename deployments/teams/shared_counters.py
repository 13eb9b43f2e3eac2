"""Counters of one of several ingress processes: one book for all of them, which may be away for a while."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from deployments.errors import MeteringUnavailableError, ServeError
from deployments.teams.book import Book, Settlement
from deployments.teams.counting import Account, Ask, BudgetUse, Grant
from deployments.teams.recent import Recent
from deployments.teams.records import Limits
from deployments.teams.shared_book import RENEW_S, News, State, is_hard
from deployments.teams.tally import Now
from deployments.teams.unbooked import Costs
from monitoring import logs

PATIENCE_S = 1.0
"""The book answers within a millisecond or two, on a busy machine within this."""

RETRY_S = 0.5
"""So often a book that was away is asked again."""

RETRY_AFTER_S = 2.0

MOST_UNSENT = 100_000
"""Settlements: beyond them the oldest are dropped. The ledger has them, and the book learns what is still open."""


class BookAwayError(Exception):
    """The shared book does not answer."""


class RemoteBook(Protocol):
    """A `SharedBook` elsewhere; every call raises BookAwayError where it cannot be reached."""

    async def reserve(self, name: str, ask: Ask, settled: list[Settlement]) -> Grant | ServeError | None: ...

    async def tell(self, name: str, news: News) -> bool: ...

    async def join(self, name: str, state: State) -> None: ...

    async def leave(self, name: str, settled: list[Settlement]) -> None: ...

    async def budgets(self) -> list[BudgetUse]: ...


class SharedCounters:
    """`deployments.teams.counting.Counters` over a book that all ingress processes share.

    While it is away, this process lets in what its share of the limits has room for, one of `processes`, and nothing
    that a hard budget pays for. joins: how often it has told the book all that it knows. unbooked: costs of this
    process's requests that the database may not know.
    """

    def __init__(
        self,
        book: RemoteBook,
        processes: int,
        clock: Callable[[], Now] = Now.read,
        unbooked: Callable[[], Costs] = dict,
    ) -> None:
        self._book = book
        self._processes = processes
        self._clock = clock
        self._name = uuid.uuid4().hex
        self._asked: set[str] = set()
        self._open: dict[str, Ask] = {}
        self._recent = Recent(unbooked)
        self._unsent: list[Settlement] = []
        self._news = asyncio.Event()
        self._own: Book | None = None
        self._absences = 0
        self._granted_alone: set[str] = set()
        self._used_alone = Recent()
        self._joining = asyncio.Lock()
        self.joins = 0
        self._renewed = 0.0
        self._keeper: asyncio.Task[None] | None = None
        self._is_told = False
        self._asks_book = False

    @property
    def is_away(self) -> bool:
        return self._own is not None

    async def reserve(self, ask: Ask) -> Grant:
        self._asks_book = True
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())
        self._asked.add(ask.id)
        try:
            answer = await self._answer(ask)
        except BaseException:
            self._send(Settlement(ask.id, 0, 0))  # it may have been counted
            raise
        finally:
            self._asked.discard(ask.id)
        if isinstance(answer, ServeError):
            raise answer
        self._open[ask.id] = ask
        return answer

    def settle(self, id: str, tokens: int, cost: int) -> None:
        if (ask := self._open.pop(id, None)) is None:
            return
        settlement, now = Settlement(id, tokens, cost), self._clock()
        self._recent.add(ask, tokens, now)
        if id in self._granted_alone:
            self._granted_alone.remove(id)
            self._used_alone.add(ask, tokens, now)
        if self._own is not None:
            self._own.settle(settlement, now)
        self._send(settlement)

    async def budgets(self) -> list[BudgetUse]:
        """Raises MeteringUnavailableError."""
        self._asks_book = True
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._book.budgets()
        except (BookAwayError, TimeoutError):
            raise MeteringUnavailableError("Budgets cannot be counted now.", retry_after=RETRY_AFTER_S) from None

    async def close(self) -> None:
        """What is still open comes off."""
        if not self._asks_book:
            return
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        with contextlib.suppress(BookAwayError, TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._book.leave(self._name, self._unsent)

    async def _answer(self, ask: Ask) -> Grant | ServeError:
        if self._own is not None:
            answer = self._answer_alone(ask, self._own)
            if isinstance(answer, Grant):
                self._granted_alone.add(ask.id)
            return answer
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._answer_of_all(ask)
        except (BookAwayError, TimeoutError):
            answer = self._answer_alone(ask, self._alone())
            if isinstance(answer, ServeError):
                self._send(Settlement(ask.id, 0, 0))  # only the answer may have got lost
            return answer

    async def _answer_of_all(self, ask: Ask) -> Grant | ServeError:
        while True:
            joins = self.joins
            with self._sending() as settled:
                answer = await self._book.reserve(self._name, ask, settled)
            if answer is not None:
                return answer
            await self._join(joins)

    def _answer_alone(self, ask: Ask, own: Book) -> Grant | ServeError:
        if is_hard(ask):
            return MeteringUnavailableError("What is left of the budget cannot be told now.", retry_after=RETRY_AFTER_S)
        return own.reserve(_share(ask, self._processes), self._clock())

    def _alone(self) -> Book:
        """From now on, until the shared book is back."""
        if self._own is None:
            self._own, now = Book(), self._clock()
            self._absences += 1
            for ask in self._open.values():
                self._own.hold(_share(ask, self._processes), now)
            self._news.set()
        return self._own

    async def _keep(self) -> None:
        """Sends what was settled, and says every few seconds what is open: for as long as there are these counters."""
        renew = True
        while True:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._tell(renew)
                self._is_told = False
            except (BookAwayError, TimeoutError):
                self._alone()
            except Exception as error:
                self._alone()
                self._report(error)
            if self._own is not None:
                await asyncio.sleep(RETRY_S)
            renew = await self._is_due()

    def _report(self, error: Exception) -> None:
        """Of what nobody expected, once until the book is told again."""
        if not self._is_told:
            self._is_told = True
            logs.event("limits.book_failed", level=logging.ERROR, exception=logs.describe(error))

    async def _is_due(self) -> bool:
        """Wait until something was settled: False; or until it is time to say what is open: True."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(self._renewed + RENEW_S):
                await self._news.wait()
                return loop.time() >= self._renewed + RENEW_S
        except TimeoutError:
            return True

    async def _tell(self, renew: bool) -> None:
        self._news.clear()
        joins = self.joins
        if self._own is not None:
            await self._join(joins)
            return
        if not renew and not self._unsent:
            return  # it went with a request
        with self._sending() as settled:
            news = News(settled, list(self._open), list(self._asked)) if renew else News(settled)
            is_known = await self._book.tell(self._name, news)
        if renew:
            self._renewed = asyncio.get_running_loop().time()
        if not is_known:
            await self._join(joins)

    async def _join(self, joins: int) -> None:
        """joins: how often it had been done when it turned out to be needed; whoever comes second has nothing to do."""
        async with self._joining:
            if self.joins == joins:
                with self._sending() as settled:
                    await self._book.join(self._name, self._state(settled))
                self.joins += 1
                self._own = None
                self._granted_alone.clear()
                self._used_alone = Recent()

    def _state(self, settled: list[Settlement]) -> State:
        now = self._clock()
        used, alone = self._recent.used(now), self._used_alone.used(now)
        return State(settled, list(self._open.values()), used, self._absences, alone)

    @contextlib.contextmanager
    def _sending(self) -> Iterator[list[Settlement]]:
        """What was settled and is not told yet; it is again where telling it fails."""
        settled, self._unsent = self._unsent, []
        try:
            yield settled
        except BaseException:
            self._unsent = (settled + self._unsent)[-MOST_UNSENT:]
            raise

    def _send(self, settlement: Settlement) -> None:
        self._unsent.append(settlement)
        if len(self._unsent) > 2 * MOST_UNSENT:
            self._unsent = self._unsent[-MOST_UNSENT:]
        self._news.set()


def _share(ask: Ask, processes: int) -> Ask:
    """With the limits of one of so many processes: at least what this request needs, where it is allowed at all."""

    def share(limit: int | None, least: int) -> int | None:
        return None if limit is None else min(limit, max(limit // processes, least))

    def shared(account: Account) -> Account:
        limits = account.limits
        return Account(
            id=account.id,
            limits=Limits(
                requests_per_minute=share(limits.requests_per_minute, 1),
                tokens_per_minute=share(limits.tokens_per_minute, ask.tokens),
                parallel=share(limits.parallel, 1),
            ),
        )

    return msgspec.structs.replace(ask, accounts=tuple(shared(account) for account in ask.accounts))
