"""The book of several ingress processes, its callers: each has a name, and says every few seconds that it lives.

A book that was opened anew, since the one before died, knows nobody. Whom it does not know it answers None, and a
caller that is answered so joins: it says what it has open, and what it used that the database may not know.
"""

from __future__ import annotations

import msgspec

from deployments.errors import MeteringUnavailableError, ServeError
from deployments.teams.book import Book, Settlement, Used
from deployments.teams.counting import Ask, BudgetUse, Grant
from deployments.teams.tally import Now

SECOND_NS = 10**9

RENEW_S = 2.0
"""So often a caller says that it lives, and which of its reservations do."""

SILENCE_S = 60.0
"""A caller that says nothing for so long is dead, and what it had reserved comes off."""

GRACE_S = 2 * RENEW_S + 1
"""A book that follows a dead one has heard of every living caller after this, and knows what is reserved."""

UNDERWAY_S = 2 * RENEW_S
"""What was reserved longer ago than this was known to its caller when it last told what it has."""


class News(msgspec.Struct, frozen=True):
    """settled: since the last news. open: all that is reserved; None: nothing is said of it. asked: what may be, since
    its answer is not there yet."""

    settled: list[Settlement]
    open: list[str] | None = None
    asked: list[str] = []


class State(msgspec.Struct, frozen=True):
    """All that a caller knows. used: by requests that have ended, as far as it counts still.

    alone: of that, by requests which this book did not grant, since it was away. absence: the number of that time.
    """

    settled: list[Settlement]
    open: list[Ask]
    used: list[Used]
    absence: int = 0
    alone: list[Used] = []


class _Caller:
    def __init__(self, heard_ns: int) -> None:
        self.heard_ns = heard_ns
        self.open: set[str] = set()
        self.absence = 0


class SharedBook:
    """succeeds: there was one before, which has died."""

    def __init__(self, now: Now, succeeds: bool = False) -> None:
        self.book = Book()
        self._callers: dict[str, _Caller] = {}
        self._buried: dict[str, _Caller] = {}
        self._knows_all_ns = now.ns + int(GRACE_S * SECOND_NS) if succeeds else now.ns

    @property
    def is_deserted(self) -> bool:
        return not self._callers

    def reserve(self, name: str, ask: Ask, settled: list[Settlement], now: Now) -> Grant | ServeError | None:
        """settled: what has to come off before. None: join first."""
        caller = self._heard(name, now)
        if caller is None:
            return None
        self._settle(caller, settled, now)
        if (left_ns := self._knows_all_ns - now.ns) > 0 and is_hard(ask):
            return MeteringUnavailableError(
                "What is left of the budget is being counted again.", retry_after=left_ns / SECOND_NS
            )
        answer = self.book.reserve(ask, now)
        if isinstance(answer, Grant):
            caller.open.add(ask.id)
        return answer

    def tell(self, name: str, news: News, now: Now) -> bool:
        """False: join first; something is open that this book does not know."""
        caller = self._heard(name, now)
        if caller is None:
            return False
        self._settle(caller, news.settled, now)
        if news.open is None:
            return True
        self._keep_only(caller, {*news.open, *news.asked}, now)
        return caller.open.issuperset(news.open)

    def join(self, name: str, state: State, now: Now) -> None:
        """Of a caller that is known, what it used is no news but for what it did alone, and that is heard once."""
        caller = self._heard(name, now) or self._buried.pop(name, None)
        if caller is None:
            caller, news = _Caller(now.ns), state.used
        else:
            news = state.alone if state.absence > caller.absence else []
        self._callers[name] = caller
        caller.heard_ns, caller.absence = now.ns, state.absence
        for used in news:
            self.book.remember(used, now, at_first=now.ns < self._knows_all_ns)
        self._settle(caller, state.settled, now)
        self._keep_only(caller, {ask.id for ask in state.open}, now)
        for ask in state.open:
            self.book.hold(ask, now)
            caller.open.add(ask.id)

    def leave(self, name: str, settled: list[Settlement], now: Now) -> None:
        if (caller := self._callers.pop(name, None)) is not None:
            self._settle(caller, settled, now)
            self.book.drop(caller.open)

    def budgets(self, now: Now) -> list[BudgetUse]:
        self._bury(now)
        return self.book.budgets(now)

    def _heard(self, name: str, now: Now) -> _Caller | None:
        self._bury(now)
        if (caller := self._callers.get(name)) is not None:
            caller.heard_ns = now.ns
        return caller

    def _bury(self, now: Now) -> None:
        """There are as many callers as ingress processes: a few, and so are those that died in this book's time."""
        oldest = now.ns - int(SILENCE_S * SECOND_NS)
        for name in [name for name, caller in self._callers.items() if caller.heard_ns < oldest]:
            caller = self._buried[name] = self._callers.pop(name)
            self.book.drop(caller.open)
            caller.open.clear()

    def _settle(self, caller: _Caller, settled: list[Settlement], now: Now) -> None:
        for settlement in settled:
            self.book.settle(settlement, now)
            caller.open.discard(settlement.id)

    def _keep_only(self, caller: _Caller, open: set[str], now: Now) -> None:
        """An answer may have got lost, or a settlement with the oldest of too many: nothing stays reserved for that."""
        underway = now.ns - int(UNDERWAY_S * SECOND_NS)
        lost = [id for id in caller.open - open if (at := self.book.reserved_at(id)) is None or at < underway]
        self.book.drop(lost)
        caller.open.difference_update(lost)


def is_hard(ask: Ask) -> bool:
    return any(account.budget is not None and account.budget.hard for account in ask.accounts)
