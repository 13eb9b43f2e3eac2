"""All accounts, and what is reserved of them: for a request all or nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from deployments.errors import ServeError
from deployments.teams.buckets import MINUTE_NS
from deployments.teams.counting import Account, Allowance, Ask, BudgetUse, Grant
from deployments.teams.rate_limit_headers import headers_of
from deployments.teams.refusal import refusals, weightiest
from deployments.teams.tally import Now, Tally


class Settlement(msgspec.Struct, frozen=True):
    """What a request has used at its end. id: as of its Ask."""

    id: str
    tokens: int
    cost: int


class Used(msgspec.Struct, frozen=True):
    """What an account used a moment ago. costs: with the days (UTC) when it began, and only what may not be booked."""

    account: Account
    requests: int
    tokens: int
    costs: list[tuple[int, int]] = []


class _Reservation(NamedTuple):
    ask: Ask
    at: Now


class Book:
    """Never waits, and costs a request the same whatever it holds.

    tallies: by account, of those that are not idle.
    """

    def __init__(self) -> None:
        self.tallies: dict[str, Tally] = {}
        self._open: dict[str, _Reservation] = {}
        self._pruned_ns = 0

    def reserve(self, ask: Ask, now: Now) -> Grant | ServeError:
        """An error is the answer where an account has no room. What is reserved already is granted again."""
        self._prune(now)
        tallies = [self._tally(account, now) for account in ask.accounts]
        if ask.id not in self._open:
            if found := [refusal for tally in tallies for refusal in refusals(tally, ask, now)]:
                refusal = weightiest(found)
                refusal.headers = {**headers_of(_left(tallies, now)), **refusal.headers}
                return refusal
            self.hold(ask, now)
        return _left(tallies, now)

    def hold(self, ask: Ask, now: Now) -> None:
        """Reserve, whether there is room or not: somebody else has granted it."""
        if ask.id not in self._open:
            for account in ask.accounts:
                self._tally(account, now).hold(ask.tokens, ask.cost, now)
            self._open[ask.id] = _Reservation(ask, now)

    def settle(self, settlement: Settlement, now: Now) -> None:
        """Once: of what is not reserved (any more) it changes nothing."""
        reservation = self._release(settlement.id)
        if reservation is not None:
            for account in reservation.ask.accounts:
                self.tallies[account.id].use(0, settlement.tokens, settlement.cost, reservation.at.wall, now)

    def drop(self, ids: Iterable[str]) -> None:
        """Reservations of which nobody will say what they used."""
        for id in ids:
            self._release(id)

    def remember(self, used: Used, now: Now, at_first: bool = False) -> None:
        """What this book has not granted. at_first: it was used before the book was opened, and so was what is booked
        of the account.
        """
        tally = self._tally(used.account, now)
        if at_first:
            tally.spending.begin_with(used.account.spent)
        tally.use(used.requests, used.tokens, 0, now.wall, now)
        for day, cost in used.costs:
            tally.use(0, 0, cost, day, now)

    def reserved_at(self, id: str) -> int | None:
        """Nanoseconds of the clock; None: it is not reserved."""
        reservation = self._open.get(id)
        return None if reservation is None else reservation.at.ns

    def budgets(self, now: Now) -> list[BudgetUse]:
        return [use for tally in self.tallies.values() if (use := tally.budget_use(now)) is not None]

    def _tally(self, account: Account, now: Now) -> Tally:
        tally = self.tallies.get(account.id)
        if tally is None:
            tally = self.tallies[account.id] = Tally(account)
        tally.follow(account, now)
        return tally

    def _release(self, id: str) -> _Reservation | None:
        reservation = self._open.pop(id, None)
        if reservation is not None:
            ask, at = reservation
            for account in ask.accounts:
                self.tallies[account.id].release(ask.tokens, ask.cost, at.wall)
        return reservation

    def _prune(self, now: Now) -> None:
        """Accounts are deleted, and new ones made: none is kept of which there is nothing to know."""
        if now.ns - self._pruned_ns < MINUTE_NS:
            return
        self._pruned_ns = now.ns
        for id in [id for id, tally in self.tallies.items() if tally.is_idle(now)]:
            del self.tallies[id]


def _left(tallies: list[Tally], now: Now) -> Grant:
    return Grant(
        requests=_least([tally.requests_left(now) for tally in tallies]),
        tokens=_least([tally.tokens_left(now) for tally in tallies]),
    )


def _least(allowances: Iterable[Allowance | None]) -> Allowance | None:
    limits = [allowance for allowance in allowances if allowance is not None]
    return min(limits, key=lambda allowance: allowance.remaining, default=None)
