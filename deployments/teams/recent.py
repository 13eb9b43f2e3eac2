"""What this process has used in the last minute: for a counter that begins anew, and knows of nothing."""

from __future__ import annotations

from collections import deque

from deployments.teams.book import Used
from deployments.teams.buckets import MINUTE_NS
from deployments.teams.counting import Account, Ask
from deployments.teams.tally import Now

SLOT_NS = 5 * 10**9

UNBOOKED_NS = 10 * 10**9
"""What was used longer ago than this is in the database, and in every snapshot of it."""


class _Slot:
    __slots__ = ("cost", "requests", "since_ns", "tokens")

    def __init__(self, since_ns: int) -> None:
        self.since_ns = since_ns
        self.requests = self.tokens = self.cost = 0


class Recent:
    """slots: by account, of 5 s each: so it is small however many requests there are."""

    def __init__(self) -> None:
        self.slots: dict[str, deque[_Slot]] = {}
        self._accounts: dict[str, Account] = {}
        self._pruned_ns = 0

    def add(self, ask: Ask, tokens: int, cost: int, now: Now) -> None:
        self._prune(now)
        for account in ask.accounts:
            self._accounts[account.id] = account
            slots = self.slots.setdefault(account.id, deque())
            if not slots or now.ns - slots[-1].since_ns >= SLOT_NS:
                slots.append(_Slot(now.ns))
            slots[-1].requests += 1
            slots[-1].tokens += tokens
            slots[-1].cost += cost

    def used(self, now: Now) -> list[Used]:
        """Of requests and tokens what may not have drained yet: of those of half a minute ago, half."""
        found = [self._used(self._accounts[id], slots, now) for id, slots in self.slots.items()]
        return [used for used in found if used.requests or used.tokens or used.cost]

    def _used(self, account: Account, slots: deque[_Slot], now: Now) -> Used:
        requests = tokens = cost = 0
        for slot in slots:
            age = now.ns - slot.since_ns
            left = max(0, MINUTE_NS - age)
            requests += slot.requests * left // MINUTE_NS
            tokens += slot.tokens * left // MINUTE_NS
            cost += slot.cost if age < UNBOOKED_NS + SLOT_NS else 0
        return Used(account, requests, tokens, cost)

    def _prune(self, now: Now) -> None:
        if now.ns - self._pruned_ns < SLOT_NS:
            return
        self._pruned_ns = now.ns
        for id, slots in list(self.slots.items()):
            while slots and now.ns - slots[0].since_ns >= MINUTE_NS + SLOT_NS:
                slots.popleft()
            if not slots:
                del self.slots[id], self._accounts[id]
