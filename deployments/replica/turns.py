"""Whose piece of a long prompt comes next: by class, by what its tenant has got, then by a tenant's own order.

As in the engine's scheduler (`model.scheduling.fairness`), which sees no more than a piece at a time of what waits
here. One piece is computed at a time; but one that the engine lets wait holds up its own tenant alone.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from deployments.replica.backlog import ANYBODY, Backlog, Standing
from model.scheduling.account import Account, Accounts
from model.scheduling.fairness import MOST_OVERTAKEN

PATIENCE = 3
"""Of so many pieces of a tenant, one is for the prompt that has waited longest; the others are for those that need
least."""

STALLED_S = 1.5
"""A piece that takes longer than that, some slices, waits in the engine for others."""


@dataclass(eq=False)
class Ask:
    """One prompt of a session, from its arrival to its end.

    computed: leading tokens that are known to be in the cache. arrival: its session's place among those who wait.
    in_pieces: it is computed so. answered: it is with the engine as a whole.
    """

    key: Hashable
    prompt: array[int]
    computed: int
    arrival: int
    standing: Standing = ANYBODY
    in_pieces: bool = False
    answered: bool = False

    @property
    def left(self) -> int:
        return len(self.prompt) - self.computed


@dataclass(eq=False)
class _Line:
    """One tenant's prompts in one class.

    open: from their first wish for a piece to their end. waiting: those of them that wait for one now. running: whose
    piece is computed, since when. pieces: so far.
    """

    account: Account
    open: set[Ask] = field(default_factory=set)
    waiting: list[Ask] = field(default_factory=list)
    running: Ask | None = None
    since: float = 0.0
    pieces: int = 0

    @property
    def is_due(self) -> bool:
        """Whether it has its turn with the others: also between two pieces of its only prompt."""
        return bool(self.open) and self.running is None

    @property
    def first(self) -> Ask:
        return min(self.waiting, key=_waited if (self.pieces + 1) % PATIENCE == 0 else _needs)

    @property
    def turn(self) -> tuple[int, int]:
        return self.account.counter, self.account.number


class Turns:
    """Those who wait for pieces. `now` is in seconds, of any clock that does not go back."""

    def __init__(self) -> None:
        self._accounts = Accounts()
        self._lines: dict[Account, _Line] = {}
        self._overtaken: Counter[int] = Counter()

    def __bool__(self) -> bool:
        """Whether anybody's prompt is in pieces now."""
        return any(line.open for line in self._lines.values())

    def wait(self, ask: Ask) -> None:
        """It wants a piece."""
        line = self._line(ask.standing)
        if not line.open:
            self._accounts.comes(line.account, (other.account for other in self._of_class(line) if other.open))
        line.open.add(ask)
        if ask not in line.waiting:
            line.waiting.append(ask)

    def next(self, now: float) -> Ask | None:
        """Whose piece may begin now."""
        line = self._next()
        return line.first if line is not None and line.waiting and self._held_up_until(line) <= now else None

    def next_at(self) -> float | None:
        """When a piece may begin, should none end before; None: whose turn it is could not begin one."""
        line = self._next()
        return self._held_up_until(line) if line is not None and line.waiting else None

    def begin(self, ask: Ask, tokens: int, now: float) -> None:
        """A piece of so many tokens. Its tenant is charged for it."""
        line = self._line(ask.standing)
        line.waiting.remove(ask)
        line.running, line.since = ask, now
        line.pieces += 1
        line.account.charge_prompt(tokens, ask.standing.weight)
        own = line.account.service_class
        self._overtaken[own] = 0
        self._overtaken.update({other.account.service_class for other in self._due() if _class(other) > own})

    def end(self, ask: Ask) -> bool:
        """Its piece has been computed, or nobody wants it any more; False: none was running."""
        line = self._line(ask.standing)
        if line.running is not ask:
            return False
        line.running = None
        return True

    def leave(self, ask: Ask) -> None:
        """It wants no more pieces."""
        line = self._line(ask.standing)
        if ask not in line.open:
            return
        self.end(ask)
        line.open.remove(ask)
        if ask in line.waiting:
            line.waiting.remove(ask)
        if not line.open:
            self._accounts.leaves(line.account)

    def before(self, standing: Standing, left: int) -> float:
        """Tokens of others' pieces before the last one of a new prompt that lacks so many.

        Of its own tenant's prompts those that need no more.
        """
        own, backlog = self._line(standing), Backlog()
        for line in self._lines.values():
            for ask in line.open:
                if line is not own or ask.left <= left:
                    backlog.add(ask.standing, ask.left)
        return backlog.before(standing, left)

    def _line(self, standing: Standing) -> _Line:
        account = self._accounts.of(standing.service_class, standing.tenant)
        return self._lines.setdefault(account, _Line(account))

    def _of_class(self, line: _Line) -> Iterator[_Line]:
        return (other for other in self._lines.values() if _class(other) == _class(line))

    def _due(self) -> list[_Line]:
        return [line for line in self._lines.values() if line.is_due]

    def _next(self) -> _Line | None:
        due = self._due()
        overtaken = [line for line in due if self._overtaken[_class(line)] >= MOST_OVERTAKEN]
        return min(overtaken or due, key=lambda line: (_class(line), line.turn), default=None)

    def _held_up_until(self, line: _Line) -> float:
        """By pieces that are computed, unless they are of a worse class, or have waited in the engine for long."""
        running = (other for other in self._lines.values() if other.running is not None)
        return max((other.since + STALLED_S for other in running if _class(other) <= _class(line)), default=0.0)


def _class(line: _Line) -> int:
    return line.account.service_class


def _waited(ask: Ask) -> int:
    return ask.arrival


def _needs(ask: Ask) -> tuple[int, int]:
    return ask.left, ask.arrival
