"""Long prompts of people who type, computed in pieces, so that others are answered between two of them.

While a long prompt is computed, each token of everybody else takes as long as a chunk of it: nobody's line is there
before the next key, and all that is generated is thrown away. So a prompt that keeps the engine busy for longer than
`SLOW_S` is computed in pieces of `SLICE_S`, of one prompt at a time, in the order of `deployments.replica.turns`;
between two pieces, whoever is being answered has `REST_S` to come to an end. What a piece has computed stays in the
cache for the session's next request, should the user have typed on. Where every prompt is computed sooner than that,
as on a GPU, nothing of this happens.

Answers are not held back until a pause is likely to last: a batch of them takes hardly longer than one, and in
simulation (`tests/deployments/replica/test_typing.py`) fewer came before the next key, whoever was held for how long.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from deployments.replica.backlog import ANYBODY, Standing
from deployments.replica.remembered import Remembered
from deployments.replica.turns import Ask, Turns

SLOW_S = 1.0
SLICE_S = 0.3
REST_S = 1.5

CAPACITY = 1024
_LARGE_STEP = 128
"""Tokens of a step from which on its time tells how fast prompts are computed."""

_LEAST_PIECE = 128
_ROUNDED_TO = 64


@dataclass
class _Known:
    """What a session's last prompt had in the cache; its place among those who wait, kept until it is answered."""

    prompt: array[int] = field(default_factory=lambda: array("I"))
    arrival: int | None = None


class Pace:
    """When the next piece is computed, and of whose prompt. `now` is in seconds, of any clock that does not go back.

    speed: tokens of prompts a second, once it is known.
    """

    def __init__(self) -> None:
        self.speed: float | None = None
        self._known: Remembered[_Known] = Remembered(CAPACITY)
        self._asks: set[Ask] = set()
        self._turns = Turns()
        self._resting: set[Ask] = set()
        self._rests_until = 0.0
        self._arrivals = 0
        self._interval = SLICE_S
        self._begun_at: float | None = None

    def stepped(self, tokens: int, seconds: float) -> None:
        """A step of the engine has ended."""
        if tokens >= _LARGE_STEP and seconds > 0:
            speed = tokens / seconds
            self.speed = speed if self.speed is None else self.speed + 0.2 * (speed - self.speed)

    def ask(self, key: Hashable, prompt: Sequence[int], standing: Standing = ANYBODY) -> Ask:
        """A prompt of a session has come. Takes time in proportion to its length."""
        known = self._known.get(standing.tenant, key) or _Known()
        self._known.use(standing.tenant, key, known)
        if known.arrival is None:
            known.arrival = self._arrivals = self._arrivals + 1
        ids = array("I", prompt)
        ask = Ask(key, ids, common_length(known.prompt, ids), known.arrival, standing)
        ask.in_pieces = self._takes(ask.left) > SLOW_S
        self._asks.add(ask)
        return ask

    def wants_piece(self, ask: Ask) -> bool:
        """Whether it waits for a piece now; the rest of a prompt is no piece."""
        if ask.in_pieces and self._takes(ask.left) > SLICE_S:
            self._turns.wait(ask)
            return True
        return False

    def next_piece(self, now: float) -> tuple[Ask, int] | None:
        """Whose piece is computed now, and up to which of its tokens; None: nobody's, for now."""
        if now < self.rests_until or (ask := self._turns.next(now)) is None:
            return None
        if self._begun_at is not None:
            self._interval += 0.2 * (now - self._begun_at - self._interval)
        self._begun_at = now
        tokens = min(self._piece, ask.left - 1)
        self._turns.begin(ask, tokens, now)
        return ask, ask.computed + tokens

    def next_at(self) -> float | None:
        """When the next piece may be computed, if nothing ends before; None: who is next does not wait."""
        free_at = self._turns.next_at()
        return None if free_at is None else max(free_at, self.rests_until)

    def wait_of(self, key: Hashable, prompt: Sequence[int], standing: Standing) -> float:
        """Predicted seconds that others' pieces, and the rests after them, take before a new prompt of a session ends.

        0 where it would not be computed in pieces.
        """
        known = self._known.get(standing.tenant, key)
        left = len(prompt) - (common_length(known.prompt, array("I", prompt)) if known is not None else 0)
        if self._takes(left) <= SLOW_S:
            return 0.0
        return self._turns.before(standing, left) / self._piece * self._interval

    @property
    def _piece(self) -> int:
        """Tokens of a piece."""
        return max(_LEAST_PIECE, int((self.speed or 0) * SLICE_S)) // _ROUNDED_TO * _ROUNDED_TO

    @property
    def rests_until(self) -> float:
        """When the next piece may be computed, if nobody comes to an end before."""
        return self._rests_until if self._resting else 0.0

    def has_computed(self, ask: Ask, tokens: int) -> None:
        """The cache holds so many of its leading tokens."""
        done = ask.prompt[:tokens]
        for other in self._asks:
            if (other.key, other.standing.tenant) == (ask.key, ask.standing.tenant):
                other.computed = max(other.computed, common_length(done, other.prompt))
        if (known := self._known.get(ask.standing.tenant, ask.key)) is not None:
            known.prompt = done

    def piece_ended(self, ask: Ask, now: float) -> None:
        """Its piece has been computed, or nobody wants it any more."""
        if self._turns.end(ask):
            self._resting = {other for other in self._asks if other.answered}
            self._rests_until = now + REST_S

    def answers(self, ask: Ask) -> None:
        """The engine has it as a whole now."""
        ask.answered = True
        self._leave(ask)
        if (known := self._known.get(ask.standing.tenant, ask.key)) is not None:
            known.arrival = None

    def ended(self, ask: Ask, now: float) -> None:
        """It has been answered, or nobody waits for it any more."""
        self.piece_ended(ask, now)
        self._asks.discard(ask)
        self._resting.discard(ask)
        self._leave(ask)

    def _leave(self, ask: Ask) -> None:
        self._turns.leave(ask)
        if not self._turns:
            self._begun_at = None

    def _takes(self, left: int) -> float:
        """Seconds for the rest of a prompt, if it had the engine for itself."""
        return left / self.speed if self.speed else 0.0


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
