"""How busy each replica is, and which of them say nothing, as a handle learns it from its own requests.

Serve's own count for a router adds what is sent and subtracts what ends, and takes a replica's word in between: a word
that counts requests whose end is known by then is too high until the next one comes, or for ten seconds.
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

SILENT_S = 2.0
FORGIVEN_S = 30.0

TRUSTED_S = 10.0
"""So long, what a replica said of others' requests counts."""

FLIGHT_S = 1.0
"""A replica's word is hardly longer on its way."""

_REMEMBERED_ENDS = 1000

ReplicaT = TypeVar("ReplicaT", bound=Hashable)


@dataclass
class _Replica:
    """waiting: requests of ours that it was sent and has not said to have taken. taken: those that it has, by id."""

    waiting: int = 0
    waiting_since: float = 0.0
    taken: set[str] = field(default_factory=set)
    ended: OrderedDict[str, None] = field(default_factory=OrderedDict)  # before it was known that they were taken
    others: int = 0
    others_at: float = 0.0
    most: int = 0
    most_before: int = 0
    most_since: float = 0.0

    @property
    def ours(self) -> int:
        return self.waiting + len(self.taken)

    def silent(self, now: float) -> bool:
        return self.waiting > 0 and now - self.waiting_since > SILENT_S


class Loads:
    """Open requests a replica: ours, which are known one by one, and others', of which it speaks as it takes ours."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._replicas: defaultdict[Hashable, _Replica] = defaultdict(_Replica)

    def sent(self, replica: Hashable) -> None:
        known, now = self._replicas[replica], self._clock()
        if not known.waiting:
            known.waiting_since = now
        known.waiting += 1
        if now - known.most_since > FLIGHT_S:
            recent = now - known.most_since <= 2 * FLIGHT_S
            known.most_before, known.most, known.most_since = known.most if recent else 0, 0, now
        known.most = max(known.most, known.ours)

    def reported(self, replica: Hashable, count: int) -> None:
        """The replica answers one request that it was sent, with how many are open there, whosever they are.

        Of ours it counts at most as many as were open at some time since that request was sent.
        """
        known, now = self._replicas[replica], self._clock()
        known.others, known.others_at = max(0, count - max(known.most, known.most_before)), now
        known.waiting, known.waiting_since = max(0, known.waiting - 1), now

    def routed(self, replica: Hashable, request: str) -> None:
        """It has taken the request; `reported` came before."""
        known = self._replicas[replica]
        if request in known.ended:
            del known.ended[request]
        else:
            known.taken.add(request)

    def completed(self, replica: Hashable, request: str) -> None:
        """In whatever way it ended. A client that gives up soon is no sign that the replica is silent."""
        known = self._replicas[replica]
        if request in known.taken:
            known.taken.remove(request)
            return
        known.ended[request] = None
        if len(known.ended) > _REMEMBERED_ENDS:
            known.ended.popitem(last=False)
        if not known.silent(self._clock()):
            known.waiting = max(0, known.waiting - 1)

    def of(self, replicas: Iterable[ReplicaT]) -> dict[ReplicaT, int]:
        """Open requests of each."""
        now = self._clock()
        found = {}
        for replica in replicas:
            known = self._replicas[replica]
            found[replica] = known.ours + (known.others if now - known.others_at <= TRUSTED_S else 0)
        return found

    def answering(self, replicas: Iterable[ReplicaT]) -> list[ReplicaT]:
        """Those that are not silent, or all where all are. After a while a silent one gets another chance.

        What is not among them is forgotten.
        """
        living, now = list(replicas), self._clock()
        for replica in self._replicas.keys() - set(living):
            del self._replicas[replica]
        for known in self._replicas.values():
            if known.waiting and now - known.waiting_since > FORGIVEN_S:
                known.waiting = 0
        return [replica for replica in living if not self._replicas[replica].silent(now)] or living
