"""How far a draft model drafts: as far as it brings more tokens a second than the same steps without it.

A draft of k tokens, each right with probability a if those before it are, brings 1 + a + ... + a^k tokens in the time
of a step and of k passes of the draft model, c of a step's time each (Leviathan et al., Fast inference from
transformers via speculative decoding, arXiv:2211.17192, section 3.3). Here a pass drafts for all sequences that want
it, while those that do not only wait for it. Drafts share what room the step has for them. How often they are right,
and what a pass takes, is measured.

Before a sequence's first draft the draft model has to catch up with it. That is worth it where its tokens to come, at
the pace with drafts, save more time than the catching up takes.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from model.limits import DRAFT_PASS_TOKENS, FREE_ROWS

CHANCE = 0.7
"""That a drafted token is right, before any has been checked."""
REMEMBERED = 9
"""Measured costs of which the median counts: a pass that was held up once says little of the next."""
OTHERS = 4.0
"""Tokens for which a new sequence is taken to be like the others."""
FORGETTING = 0.9
"""What a sequence's drafts weigh after its next one."""
FORGETTING_ALL = 0.98
"""What an engine's do."""
TRY_AGAIN = 64
"""Steps without drafts, since they do not pay, until a draft of one token is made: texts and loads change."""
TRIED = 1 / 16
"""Of the time of these steps, for catching up with a sequence only to try that draft."""
CAUGHT_UP = 2
"""Tokens that it lacks of a sequence that it drafts for all the time: the last one drawn, and the last one drafted."""
LONGEST_REST = 64 * TRY_AGAIN
"""Steps without drafts after memory was too little for them again and again."""

AHEAD = 1 / 8
"""Of a step's time, saved where it is prepared while the one before runs, which no step is that a model drafts for."""


class Chance:
    """That a token is right which the draft model drafts for a sequence, or for all of them.

    others: what it begins with. The newest drafts weigh most.
    """

    def __init__(self, others: float = CHANCE, forgetting: float = FORGETTING) -> None:
        self._forgetting = forgetting
        self._right = others * OTHERS
        self._checked = OTHERS

    @property
    def value(self) -> float:
        return self._right / self._checked

    def learn(self, drafted: int, accepted: int) -> None:
        """Behind a token that is wrong nothing is told of the others."""
        self._right = self._forgetting * self._right + accepted
        self._checked = self._forgetting * self._checked + accepted + (accepted < drafted)


@dataclass(frozen=True)
class Candidate:
    """A sequence that may draft.

    chance: that a token of its draft is right. most: tokens of its draft; one more, and it has to end. lacking: its
    tokens that the draft model has not seen, at least the last one.
    """

    chance: float
    most: int
    lacking: int = 1


class DraftLength:
    """An engine's. longest: tokens of a draft. cost: of a pass, as a share of a step without drafts, until measured.

    runs_ahead: steps without drafts are prepared ahead. pass_tokens: of a pass, at most. free_tokens: of a pass that
    takes as long as one of a single token, nearly.
    step_seconds: of the last step that drafts were made for, without its passes; 0 before one was measured.
    """

    def __init__(
        self,
        longest: int,
        cost: float,
        runs_ahead: bool = False,
        pass_tokens: int = DRAFT_PASS_TOKENS["cpu"],
        free_tokens: int = FREE_ROWS["cpu"],
    ) -> None:
        self.longest = longest
        self.step_seconds = 0.0
        self._costs = deque([cost], maxlen=REMEMBERED)
        self._fills: deque[float] = deque(maxlen=REMEMBERED)
        self._pass_tokens = pass_tokens
        self._free_tokens = free_tokens
        self._without_any = 1 + AHEAD if runs_ahead else 1.0
        self._chance = Chance(forgetting=FORGETTING_ALL)
        self._without = 0
        self._trying = 0.0
        self._rest = self._resting = 0

    @property
    def chance(self) -> float:
        """What new sequences begin with."""
        return self._chance.value

    @property
    def cost(self) -> float:
        """Of a pass, as a share of a step without drafts."""
        return median_low(self._costs)

    @property
    def fill(self) -> float:
        """Of a token that the draft model catches up with, as a share of such a step."""
        return median_low(self._fills) if self._fills else self.cost / self._free_tokens

    def share(self, candidates: Sequence[Candidate], sequences: int, room: int) -> list[int]:
        """How many tokens each of the candidates drafts, at most `room` together; of equal ones the first go first.

        sequences: that the step brings tokens. A candidate that the draft model cannot catch up with before this
        step, but should, has 1.
        """
        found = [0] * len(candidates)
        if room <= 0 or self._resting:
            return found
        able = [i for i, candidate in enumerate(candidates) if candidate.most > 0]
        plain = sequences * self._without_any
        rate = self._best(candidates, able, sequences, room)[1]
        if rate > plain:
            saved = 1 / plain - 1 / rate  # by each token, in steps
            able = [i for i in able if self._repays(candidates[i], saved)]
            ready = self._ready(candidates, able)
            lengths, rate = self._best(candidates, ready, sequences, room)
            if rate > plain:
                for i, length in zip(ready, lengths, strict=True):
                    found[i] = length
            behind = [i for i in able if i not in set(ready)]
            if behind and sum(found) < room:
                found[min(behind, key=lambda i: candidates[i].lacking)] = 1
        if not any(found) and (self._trying or self._without >= TRY_AGAIN):
            able = [i for i in range(len(candidates)) if self._may_try(candidates[i])]
            if able:
                found[min(able, key=lambda i: candidates[i].lacking)] = 1
        return found

    def _best(
        self, candidates: Sequence[Candidate], able: Sequence[int], sequences: int, room: int
    ) -> tuple[list[int], float]:
        """The tokens of the able ones that bring most in the time they take, and what the step then brings in it.

        The likeliest tokens have the places, so that equal candidates draft equally far, or one token more.
        """
        lengths, rate = [0] * len(able), float(sequences)
        taken: list[tuple[float, int, int]] = []
        for length in range(1, self.longest + 1):
            more = [
                (candidates[index].chance ** length, -length, -place)
                for place, index in enumerate(able)
                if candidates[index].most >= length
            ]
            taken = heapq.nlargest(room, taken + more)
            brought = (sequences + sum(chance for chance, _, _ in taken)) / (1 + length * self.cost)
            if brought <= rate:
                break
            lengths, rate = [0] * len(able), brought
            for _, _, place in taken:
                lengths[-place] += 1
        return lengths, rate

    def _steps(self, candidate: Candidate) -> int:
        """In which the draft model has caught up with it."""
        return -(-candidate.lacking // self._pass_tokens)

    def _repays(self, candidate: Candidate, saved: float) -> bool:
        """Whether what drafts save it, `saved` steps by token, is more than the draft model's catching up takes."""
        if candidate.lacking <= CAUGHT_UP:
            return True
        steps = self._steps(candidate)
        taken = candidate.lacking * self.fill + (steps - 1) * (self._without_any - 1)
        return (candidate.most + 1 - steps) * saved > taken

    def _ready(self, candidates: Sequence[Candidate], able: Sequence[int]) -> list[int]:
        """Those that the draft model can catch up with in one pass, who lacks least before the others."""
        left, ready = self._pass_tokens, []
        for i in sorted(able, key=lambda i: candidates[i].lacking):
            left -= candidates[i].lacking
            if left < 0:
                break
            ready.append(i)
        return sorted(ready)

    def _may_try(self, candidate: Candidate) -> bool:
        """Whether the draft model catches up with it in time, and cheaply.

        One that it caught up with in the last try lacks little more than `TRY_AGAIN` tokens: that always is.
        """
        cheap = candidate.lacking <= 2 * TRY_AGAIN or candidate.lacking * self.fill <= self._for_trying
        return candidate.most > 0 and cheap and 2 * self._steps(candidate) <= candidate.most + 1

    @property
    def _for_trying(self) -> float:
        """Time that catching up may still take, in steps."""
        return self._trying or self._without * TRIED

    def went_without(self) -> None:
        """A step of sequences that might have drafted has none of their drafts."""
        self._without += 1
        self._trying = 0.0
        self._resting = max(0, self._resting - 1)

    def ran(self, drafted: bool) -> None:
        """Passes have run before a step. Without drafts they only caught up, which a try may have to go on with."""
        self._trying = 0.0 if drafted else max(0.0, self._for_trying - self._pass_tokens * self.fill)
        self._without = self._rest = 0

    def rest(self) -> bool:
        """Memory was too little for a pass: no more for a while, longer each time. Whether it is the first time."""
        first = not self._rest
        self._rest = self._resting = TRY_AGAIN if first else min(2 * self._rest, LONGEST_REST)
        return first

    def learn(self, drafted: int, accepted: int) -> None:
        """How a draft came out."""
        self._chance.learn(drafted, accepted)

    def learn_cost(self, passes: int, seconds: float, step_seconds: float, caught_up: int = 0) -> None:
        """What passes of which so many drew took, and the rest of that step. caught_up: tokens they caught up with."""
        if step_seconds <= 0:
            return
        self.step_seconds = step_seconds
        spent = seconds / step_seconds
        if caught_up:
            self._fills.append(max(0.0, spent - passes * self.cost) / caught_up)
        elif passes:
            self._costs.append(spent / passes)

    def seconds(self, passes: int, caught_up: int = 0) -> float:
        """Expected of passes that draw, and of catching up with so many tokens; 0 before a step was measured."""
        return (passes * self.cost + min(caught_up, self._pass_tokens) * self.fill) * self.step_seconds
