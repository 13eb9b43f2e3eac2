"""What this process has used, as far as it matters still: for a counter that begins anew, and knows of nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from deployments.teams.book import Used
from deployments.teams.buckets import MINUTE_NS
from deployments.teams.counting import Account, Ask
from deployments.teams.tally import Now
from deployments.teams.unbooked import Costs

SLOT_NS = 5 * 10**9


class _Slot:
    __slots__ = ("requests", "since_ns", "tokens")

    def __init__(self, since_ns: int) -> None:
        self.since_ns = since_ns
        self.requests = self.tokens = 0


class Recent:
    """Requests and tokens of the last minute, and the costs that are not booked.

    slots: by account, of 5 s each: so it is small however many requests there are. costs: that may not be booked.
    """

    def __init__(self, costs: Callable[[], Costs] = dict) -> None:
        self._costs = costs
        self.slots: dict[str, deque[_Slot]] = {}
        self._accounts: dict[str, Account] = {}
        self._pruned_ns = 0

    def add(self, ask: Ask, tokens: int, now: Now) -> None:
        self._prune(now)
        for account in ask.accounts:
            self._accounts[account.id] = account
            slots = self.slots.setdefault(account.id, deque())
            if not slots or now.ns - slots[-1].since_ns >= SLOT_NS:
                slots.append(_Slot(now.ns))
            slots[-1].requests += 1
            slots[-1].tokens += tokens

    def used(self, now: Now) -> list[Used]:
        """Of requests and tokens what may not have drained yet: of those of half a minute ago, half."""
        costs = self._costs()
        found = [
            self._used(account, self.slots.get(id, ()), costs.get(id, {}), now)
            for id, account in self._accounts.items()
        ]
        return [used for used in found if used.requests or used.tokens or used.costs]

    def _used(self, account: Account, slots: Iterable[_Slot], costs: Mapping[int, int], now: Now) -> Used:
        requests = tokens = 0
        for slot in slots:
            age = now.ns - slot.since_ns
            left = max(0, MINUTE_NS - age)
            requests += slot.requests * left // MINUTE_NS
            tokens += slot.tokens * left // MINUTE_NS
        return Used(account, requests, tokens, list(costs.items()))

    def _prune(self, now: Now) -> None:
        if now.ns - self._pruned_ns < SLOT_NS:
            return
        self._pruned_ns = now.ns
        for id, slots in list(self.slots.items()):
            while slots and now.ns - slots[0].since_ns >= MINUTE_NS + SLOT_NS:
                slots.popleft()
            if not slots:
                del self.slots[id]
        known = self.slots.keys() | self._costs().keys()
        self._accounts = {id: account for id, account in self._accounts.items() if id in known}
