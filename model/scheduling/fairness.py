"""Who waits, and whose turn it is: classes, then tenants by what they have got, then a tenant's own order.

Tenants of one class that wait are served in proportion to their weight: the Virtual Token Counter (Sheng et al.,
arXiv:2401.00588) picks the one with the smallest counter. One that comes back from an empty queue is lifted to the
smallest counter of those that wait, so that nobody saves up; between two that always wait, service differs by no more
than 2 * max(prompt token * longest prompt, output token * tokens of the cache).
"""

from __future__ import annotations

import bisect
import heapq
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from model.scheduling.account import PROMPT_TOKEN, Account, Accounts, service
from model.scheduling.sequence import Sequence

MOST_OVERTAKEN = 32
"""Sequences of better classes that are admitted while one class gets nothing, before its first one moves up a class:
batch work gets a thirtieth of the places at least, and few notice."""


class FairQueue:
    """The sequences that wait. Iterating it gives them in no order."""

    def __init__(self) -> None:
        self._accounts = Accounts()
        self._waiting: dict[int, dict[Account, list[Sequence]]] = {}
        self._overtaken: Counter[int] = Counter()
        self._never_ran: defaultdict[int, OrderedDict[Sequence, None]] = defaultdict(OrderedDict)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Sequence]:
        for lines in self._waiting.values():
            for line in lines.values():
                yield from line

    def enter(self, sequence: Sequence) -> None:
        """A new one comes."""
        sequence.account = self._accounts.of(sequence.request.service_class, sequence.request.tenant)
        self._never_ran[sequence.request.service_class][sequence] = None
        self.add(sequence)

    def add(self, sequence: Sequence) -> None:
        """It waits, perhaps again: in its place among its tenant's."""
        account = sequence.account
        lines = self._waiting.setdefault(account.service_class, {})
        if account not in lines:
            self._accounts.comes(account, lines)
            lines[account] = []
        bisect.insort(lines[account], sequence, key=_rank)
        self._size += 1

    def remove(self, sequence: Sequence) -> None:
        """Raises ValueError where it does not wait."""
        account, service_class = sequence.account, sequence.service_class
        lines = self._waiting.get(service_class, {})
        line = lines.get(account, [])
        place = bisect.bisect_left(line, sequence.rank, key=_rank)
        if line[place : place + 1] != [sequence]:
            raise ValueError("the sequence does not wait")
        del line[place]
        self._size -= 1
        if not line:
            del lines[account]
            self._accounts.leaves(account)
        if not lines:
            del self._waiting[service_class]

    def runs(self, sequence: Sequence) -> None:
        """For the first time; or it never will."""
        self._never_ran[sequence.request.service_class].pop(sequence, None)

    def never_ran(self, sequences: list[Sequence]) -> None:
        """They did not run after all."""
        for service_class in {s.request.service_class for s in sequences}:
            line = [s for s in sequences if s.request.service_class == service_class]
            line = sorted([*self._never_ran[service_class], *line], key=lambda s: s.arrival)
            self._never_ran[service_class] = OrderedDict.fromkeys(line)

    def oldest(self) -> dict[int, Sequence]:
        """Of those that have never run, the one that came first, by the class that it came with."""
        return {service_class: next(iter(line)) for service_class, line in self._never_ran.items() if line}

    def first(self) -> Sequence:
        """Whose turn it is. There must be one that waits."""
        return self._first_of(min(self._waiting))

    def in_order(self, prompts: Iterable[Sequence], most: int, looks: int) -> Iterator[Sequence]:
        """Those that wait, and prompts that run, in order of service.

        In each class prompts that run go first, since their tenant has paid for them; but for one of the same tenant
        that has a better rank and whose turn it is. Whoever is admitted meanwhile is charged, which changes whose turn
        comes next; who is not counts as if he had been. With one tenant this is the order of ranks.

        prompts: by rank. most: of those that wait, so many can be admitted. looks: so many that are not end it.
        """
        running: dict[int, list[Sequence]] = {}
        for prompt in prompts:
            running.setdefault(prompt.service_class, []).append(prompt)
        classes = sorted({*running, *self._waiting} if most else running)
        size = most + looks if most else 0
        turns = [_Turns(self._waiting.get(one, {}) if size else {}, size) for one in classes]
        return _merged([running.get(one, []) for one in classes], turns, looks)

    def overtaken(self, prompts: Iterable[Sequence], admitted: list[Sequence], served: set[int]) -> list[Sequence]:
        """Take note of a step, and tell who moves up now: the first of each class that was overtaken by too many.

        prompts: that run and got nothing in the step. served: classes whose prompts got something.
        """
        behind: dict[int, list[Sequence]] = {one: [] for one in self._waiting}
        for prompt in prompts:
            behind.setdefault(prompt.service_class, []).append(prompt)
        due = []
        for one, running in behind.items():
            if one in served:
                self._overtaken[one] = 0
                continue
            self._overtaken[one] += sum(s.service_class < one for s in admitted)
            if self._overtaken[one] >= MOST_OVERTAKEN:
                self._overtaken[one] = 0
                due.append(min(running, key=_turn) if running else self._first_of(one))
        return due

    def move_up(self, sequence: Sequence) -> None:
        """To the next better class, for good. In the one that it leaves it counts as served."""
        waits = not sequence.blocks
        if waits:
            self.remove(sequence)
        if sequence.started_at is None:
            sequence.account.charge_prompt(sequence.length, sequence.request.weight)
        sequence.account = self._accounts.of(sequence.service_class - 1, sequence.request.tenant)
        if waits:
            self.add(sequence)

    def _first_of(self, service_class: int) -> Sequence:
        return min((line[0] for line in self._waiting[service_class].values()), key=_turn)

    def check_integrity(self) -> None:
        """Raise AssertionError unless everybody waits with his account, in order."""
        assert self._size == sum(1 for _ in self)
        never_ran = sorted((s for s in self if s.started_at is None), key=lambda s: s.arrival)
        for service_class, came in self._never_ran.items():
            assert list(came) == [s for s in never_ran if s.request.service_class == service_class]
        assert sum(map(len, self._never_ran.values())) == len(never_ran)
        for service_class, lines in self._waiting.items():
            assert lines, "a class in which nobody waits"
            for account, line in lines.items():
                assert line, "a tenant of whom nobody waits"
                assert line == sorted(line, key=_rank), "out of order"
                assert all(s.account is account for s in line), "a sequence waits with another's account"
                assert account.service_class == service_class


def _rank(sequence: Sequence) -> tuple[int, int, int]:
    return sequence.rank


def _turn(sequence: Sequence) -> tuple[int, int]:
    """Among the first ones of several tenants of a class."""
    return sequence.account.counter, sequence.arrival


def cost(sequence: Sequence) -> int:
    """What a prompt will be charged at most."""
    return service(PROMPT_TOKEN * sequence.length, sequence.request.weight)


@dataclass(eq=False)
class _Place:
    """How far one account's sequences have been gone through. ahead: what those would be charged that still wait."""

    account: Account
    sequences: list[Sequence]
    next: int = 0
    ahead: int = 0

    @property
    def turn(self) -> tuple[int, int, int] | None:
        """Of the next that could run; None: there is none."""
        while self.next < len(self.sequences) and self.sequences[self.next].in_check:
            self.next += 1
        if self.next == len(self.sequences):
            return None
        return self.account.counter + self.ahead, self.sequences[self.next].arrival, self.account.number


@dataclass
class _Turns:
    """Whose turn it is in one class, from one to the next: a heap of tenants, whose counters only grow meanwhile."""

    heap: list[tuple[tuple[int, int, int], _Place]] = field(init=False)

    def __init__(self, lines: dict[Account, list[Sequence]], size: int) -> None:
        places = [_Place(account, line[:size]) for account, line in lines.items()]
        self.heap = [(turn, place) for place in places if (turn := place.turn) is not None]
        heapq.heapify(self.heap)

    def peek(self) -> Sequence | None:
        while self.heap:
            known, place = self.heap[0]
            turn = place.turn
            if turn == known:
                return place.sequences[place.next]
            if turn is None:
                heapq.heappop(self.heap)
            else:
                heapq.heapreplace(self.heap, (turn, place))
        return None

    def take(self) -> Iterator[Sequence]:
        """The one that was peeked at."""
        place = self.heap[0][1]
        sequence = place.sequences[place.next]
        place.next += 1
        yield sequence
        if not sequence.blocks:
            place.ahead += cost(sequence)


def _merged(running: list[list[Sequence]], turns: list[_Turns], looks: int) -> Iterator[Sequence]:
    """Of each class, best first."""
    for prompts, waiting in zip(running, turns, strict=True):
        prompts.sort(key=lambda s: (s.account.counter, s.account.number))  # keeps a tenant's in order of rank
        for prompt in [*prompts, None]:
            while looks and (first := waiting.peek()) is not None:
                if prompt is not None and not (first.account is prompt.account and first.rank < prompt.rank):
                    break
                yield from waiting.take()
                looks -= not first.blocks
            if prompt is not None:
                yield prompt
