"""How far a draft model drafts: as far as it brings more tokens a second than the same steps without it.

A draft of k tokens, each right with probability a if those before it are, brings 1 + a + ... + a^k tokens in the time
of a step and of k passes of the draft model, c of a step's time each (Leviathan et al., Fast inference from
transformers via speculative decoding, arXiv:2211.17192, section 3.3). Here a pass drafts for all sequences that want
it, while those that do not only wait for it. How often drafts are right, and what a pass takes, is measured.
"""

from __future__ import annotations

from collections.abc import Sequence

CHANCE = 0.7
"""That a drafted token is right, before any has been checked."""
NEW_SHARE = 0.1
"""Of the newest passes in their mean cost."""
OTHERS = 4.0
"""Tokens for which a new sequence is taken to be like the others."""
FORGETTING = 0.9
"""What a sequence's drafts weigh after its next one."""
FORGETTING_ALL = 0.98
"""What an engine's do."""
TRY_AGAIN = 64
"""Steps without drafts, since they do not pay, until a draft of one token is made: texts and loads change."""


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


class DraftLength:
    """An engine's. longest: tokens of a draft. cost: of a pass, as a share of a step without drafts, until measured.

    runs_ahead: steps without drafts are prepared ahead.
    """

    def __init__(self, longest: int, cost: float, runs_ahead: bool = False) -> None:
        self.longest = longest
        self.cost = cost
        self._without_any = 1 + AHEAD if runs_ahead else 1.0
        self._chance = Chance(forgetting=FORGETTING_ALL)
        self._measured = False
        self._without = 0

    @property
    def chance(self) -> float:
        """What new sequences begin with."""
        return self._chance.value

    def tokens(self, chances: Sequence[float], sequences: int) -> int:
        """For how many tokens those draft who may. chances: theirs. sequences: that the step brings tokens."""
        if not chances:
            return 0
        best, brought, rate = 0, float(sequences), 0.0
        for length in range(1, self.longest + 1):
            brought += sum(chance**length for chance in chances)
            if brought / (1 + length * self.cost) <= rate:
                break
            best, rate = length, brought / (1 + length * self.cost)
        if rate > sequences * self._without_any:
            return best
        return int(self._without >= TRY_AGAIN)

    def went_without(self) -> None:
        """A step of sequences that might have drafted has none of their drafts."""
        self._without += 1

    def learn(self, drafted: int, accepted: int) -> None:
        """How a draft came out."""
        self._without = 0
        self._chance.learn(drafted, accepted)

    def learn_cost(self, passes: int, seconds: float, step_seconds: float) -> None:
        """What the passes of a step took, and the rest of that step."""
        if step_seconds <= 0:
            return
        cost = seconds / passes / step_seconds
        self.cost += (cost - self.cost) * (NEW_SHARE if self._measured else 1.0)
        self._measured = True
