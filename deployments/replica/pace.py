"""Long prompts of people who type, computed in pieces, so that others are answered between two of them.

While a long prompt is computed, each token of everybody else takes as long as a chunk of it: nobody's line is there
before the next key, and all that is generated is thrown away. So a prompt that keeps the engine busy for longer than
`SLOW_S` is computed in pieces of `SLICE_S`, of one prompt at a time; between two pieces, whoever is being answered has
`REST_S` to come to an end. What a piece has computed stays in the cache for the session's next request, should the user
have typed on. Where every prompt is computed sooner than that, as on a GPU, nothing of this happens.

Answers are not held back until a pause is likely to last: a batch of them takes hardly longer than one, and in
simulation (`tests/deployments/replica/test_typing.py`) fewer came before the next key, whoever was held for how long.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

SLOW_S = 1.0
SLICE_S = 0.3
REST_S = 1.5
PATIENCE = 3
"""Of so many pieces, one is for the prompt that has waited longest; the others are for those that need least."""

CAPACITY = 1024
_LARGE_STEP = 128
"""Tokens of a step from which on its time tells how fast prompts are computed."""

_LEAST_PIECE = 128
_ROUNDED_TO = 64


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
    in_pieces: bool = False
    answered: bool = False

    @property
    def left(self) -> int:
        return len(self.prompt) - self.computed


@dataclass
class _Known:
    """What a session's last prompt had in the cache; its place among those who wait, kept until it is answered."""

    prompt: array[int] = field(default_factory=lambda: array("I"))
    arrival: int | None = None


class Pace:
    """Whose piece is computed next, and when. `now` is in seconds, of any clock that does not go back.

    speed: tokens of prompts a second, once it is known.
    """

    def __init__(self) -> None:
        self.speed: float | None = None
        self._known: OrderedDict[Hashable, _Known] = OrderedDict()
        self._asks: set[Ask] = set()
        self._waiting: list[Ask] = []
        self._running: Ask | None = None
        self._resting: set[Ask] = set()
        self._rests_until = 0.0
        self._arrivals = self._pieces = 0

    def stepped(self, tokens: int, seconds: float) -> None:
        """A step of the engine has ended."""
        if tokens >= _LARGE_STEP and seconds > 0:
            speed = tokens / seconds
            self.speed = speed if self.speed is None else self.speed + 0.2 * (speed - self.speed)

    def ask(self, key: Hashable, prompt: Sequence[int]) -> Ask:
        """A prompt of a session has come. Takes time in proportion to its length."""
        known = self._known.setdefault(key, _Known())
        self._known.move_to_end(key)
        while len(self._known) > CAPACITY:
            self._known.popitem(last=False)
        if known.arrival is None:
            known.arrival = self._arrivals = self._arrivals + 1
        ids = array("I", prompt)
        ask = Ask(key, ids, common_length(known.prompt, ids), known.arrival)
        ask.in_pieces = self._takes(ask) > SLOW_S
        self._asks.add(ask)
        return ask

    def wants_piece(self, ask: Ask) -> bool:
        """Whether it waits for a piece now; the rest of a prompt is no piece."""
        if ask.in_pieces and self._takes(ask) > SLICE_S:
            if ask not in self._waiting:
                self._waiting.append(ask)
            return True
        return False

    def next_piece(self, now: float) -> tuple[Ask, int] | None:
        """Whose piece is computed now, and up to which of its tokens; None: nobody's, for now."""
        if not self._waiting or self._running is not None or now < self.rests_until:
            return None
        self._pieces += 1
        ask = min(self._waiting, key=_waited if self._pieces % PATIENCE == 0 else _needs)
        self._waiting.remove(ask)
        self._running = ask
        piece = max(_LEAST_PIECE, int((self.speed or 0) * SLICE_S)) // _ROUNDED_TO * _ROUNDED_TO
        return ask, ask.computed + min(piece, ask.left - 1)

    @property
    def rests_until(self) -> float:
        """When the next piece may be computed, if nobody comes to an end before."""
        return self._rests_until if self._resting else 0.0

    def has_computed(self, ask: Ask, tokens: int) -> None:
        """The cache holds so many of its leading tokens."""
        done = ask.prompt[:tokens]
        for other in self._asks:
            if other.key == ask.key:
                other.computed = max(other.computed, common_length(done, other.prompt))
        if (known := self._known.get(ask.key)) is not None:
            known.prompt = done

    def piece_ended(self, ask: Ask, now: float) -> None:
        """Its piece has been computed, or nobody wants it any more."""
        if self._running is ask:
            self._running = None
            self._resting = {other for other in self._asks if other.answered}
            self._rests_until = now + REST_S

    def answers(self, ask: Ask) -> None:
        """The engine has it as a whole now."""
        ask.answered = True
        if (known := self._known.get(ask.key)) is not None:
            known.arrival = None

    def ended(self, ask: Ask, now: float) -> None:
        """It has been answered, or nobody waits for it any more."""
        self.piece_ended(ask, now)
        self._asks.discard(ask)
        self._resting.discard(ask)
        if ask in self._waiting:
            self._waiting.remove(ask)

    def _takes(self, ask: Ask) -> float:
        """Seconds for the rest of a prompt, if it had the engine for itself."""
        return ask.left / self.speed if self.speed else 0.0


def _waited(ask: Ask) -> int:
    return ask.arrival


def _needs(ask: Ask) -> tuple[int, int]:
    return ask.left, ask.arrival


def common_length(one: array[int], other: array[int]) -> int:
    """How many leading ids two arrays share, in time linear in the shorter one."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:  # halves of what is left: n + n/2 + ... comparisons
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
