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
    """waiting: calls of ours that it was sent and has not said to have taken. errands: so many of them are no requests.

    taken: those that it has taken, by id. taken_errands: of them those that are no requests.
    """

    waiting: int = 0
    waiting_since: float = 0.0
    errands: int = 0
    taken: set[str] = field(default_factory=set)
    taken_errands: set[str] = field(default_factory=set)
    ended: OrderedDict[str, None] = field(default_factory=OrderedDict)  # before it was known that they were taken
    others: int = 0
    others_at: float = 0.0
    most: int = 0
    most_before: int = 0
    most_since: float = 0.0

    @property
    def calls(self) -> int:
        return self.waiting + len(self.taken)

    @property
    def requests(self) -> int:
        return max(0, self.waiting - self.errands) + len(self.taken) - len(self.taken_errands)

    def answer_one(self) -> None:
        self.waiting = max(0, self.waiting - 1)
        if not self.waiting:
            self.errands = 0  # an errand that nobody took is over, too

    def silent(self, now: float) -> bool:
        return self.waiting > 0 and now - self.waiting_since > SILENT_S


class Loads:
    """Open requests a replica: ours, which are known one by one, and others', of which it speaks as it takes ours.

    Calls that are no requests are errands: that by which a replica sends its answers is open all the time, and says
    nothing of how busy it is. The replica's word counts them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._replicas: defaultdict[Hashable, _Replica] = defaultdict(_Replica)

    def errand(self, replica: Hashable) -> None:
        """One is going to be sent there."""
        self._replicas[replica].errands += 1

    def sent(self, replica: Hashable) -> None:
        known, now = self._replicas[replica], self._clock()
        if not known.waiting:
            known.waiting_since = now
        known.waiting += 1
        if now - known.most_since > FLIGHT_S:
            recent = now - known.most_since <= 2 * FLIGHT_S
            known.most_before, known.most, known.most_since = known.most if recent else 0, 0, now
        known.most = max(known.most, known.calls)

    def reported(self, replica: Hashable, count: int) -> None:
        """The replica answers one call that it was sent, with how many are open there, whosever they are.

        Of ours it counts at most as many as were open at some time since that one was sent.
        """
        known, now = self._replicas[replica], self._clock()
        known.others, known.others_at = max(0, count - max(known.most, known.most_before)), now
        known.waiting_since = now
        known.answer_one()

    def routed(self, replica: Hashable, call: str, errand: bool = False) -> None:
        """It has taken the call; `reported` came before."""
        known = self._replicas[replica]
        if errand:
            known.errands = max(0, known.errands - 1)
        if call in known.ended:
            del known.ended[call]
            return
        known.taken.add(call)
        if errand:
            known.taken_errands.add(call)

    def completed(self, replica: Hashable, call: str) -> None:
        """In whatever way it ended. A client that gives up soon is no sign that the replica is silent."""
        known = self._replicas[replica]
        if call in known.taken:
            known.taken.remove(call)
            known.taken_errands.discard(call)
            return
        known.ended[call] = None
        if len(known.ended) > _REMEMBERED_ENDS:
            known.ended.popitem(last=False)
        if not known.silent(self._clock()):
            known.answer_one()

    def of(self, replicas: Iterable[ReplicaT]) -> dict[ReplicaT, int]:
        """Open requests of each."""
        now = self._clock()
        found = {}
        for replica in replicas:
            known = self._replicas[replica]
            found[replica] = known.requests + (known.others if now - known.others_at <= TRUSTED_S else 0)
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
                known.waiting = known.errands = 0
        return [replica for replica in living if not self._replicas[replica].silent(now)] or living
