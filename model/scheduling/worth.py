"""What speculation is worth: the time of steps with drafts against that of steps without, for the same tokens."""

from __future__ import annotations

from model.statistics import EngineCounters
from monitoring import metrics

NEW_SHARE = 0.1
"""Of the newest step in the mean of steps: contexts grow, and devices get slower and faster."""
COMPARED_EVERY = 126
"""Steps with drafts of as many sequences, without one that has none, after which some go without."""
COMPARED_FIRST = 6
"""Where none was ever seen without."""
COMPARED = 2
"""Of them, one behind the other, so that one is prepared while another runs, as without drafts all are."""


class SpeculationWorth:
    """Counts both for an engine.

    A token that a sequence keeps of its draft saves it a place in a later step, so that s sequences with n tokens are
    worth n / s steps without drafts. How long these take is the mean of the last ones of as many sequences; steps with
    drafts of a size that has not been seen without them count nothing. Where all would have drafts, some therefore go
    without. Steps before which a draft model ran count as steps with drafts, whether it got to a draft or not.
    """

    def __init__(self, counters: EngineCounters) -> None:
        self._counters = counters
        self._plain_seconds: dict[int, float] = {}
        self._drafted: dict[int, int] = {}
        self._left = 0

    def compares(self, sequences: int) -> bool:
        """Whether the next step, of so many sequences, is to go without drafts, so that others compare with it."""
        often = COMPARED_EVERY if sequences in self._plain_seconds else COMPARED_FIRST
        if not self._left and self._drafted.get(sequences, 0) >= often:
            self._left = COMPARED
        if not self._left:
            return False
        self._drafted[sequences] = 0
        self._left -= 1
        return True

    def spent(self, seconds: float) -> None:
        """A draft model has caught up with sequences for so long, before a step that is compared with none."""
        self._counters.add(metrics.DRAFTED_STEP_TIME, seconds)

    def ended(self, sequences: int, drafted: int, tokens: int, seconds: float) -> None:
        """A step without prompts has ended. drafted: tokens that it checked, and a draft model's passes; tokens: that
        it brought, at least one."""
        plain = self._plain_seconds.get(sequences)
        self._drafted[sequences] = self._drafted.get(sequences, 0) + 1 if drafted else 0
        if not drafted:
            self._plain_seconds[sequences] = seconds if plain is None else plain + NEW_SHARE * (seconds - plain)
        elif plain is not None:
            self._counters.add(metrics.DRAFTED_STEP_TIME, seconds)
            self._counters.add(metrics.PLAIN_STEP_TIME, plain * tokens / sequences)
