"""What speculation is worth: the time of steps with drafts against that of steps without, for the same tokens."""

from __future__ import annotations

from model.statistics import EngineCounters
from monitoring import metrics

NEW_SHARE = 0.1
"""Of the newest step in the mean of steps: contexts grow, and devices get slower and faster."""


class SpeculationWorth:
    """Counts both for an engine.

    A token that a sequence keeps of its draft saves it a place in a later step, so that s sequences with n tokens are
    worth n / s steps without drafts. How long these take is the mean of the last ones of as many sequences; steps with
    drafts of a size that has not been seen without them count nothing.
    """

    def __init__(self, counters: EngineCounters) -> None:
        self._counters = counters
        self._plain_seconds: dict[int, float] = {}

    def ended(self, sequences: int, drafted: int, tokens: int, seconds: float) -> None:
        """A step without prompts has ended. drafted: tokens that it checked; tokens: that it brought, at least one."""
        plain = self._plain_seconds.get(sequences)
        if not drafted:
            self._plain_seconds[sequences] = seconds if plain is None else plain + NEW_SHARE * (seconds - plain)
        elif plain is not None:
            self._counters.add(metrics.DRAFTED_STEP_TIME, seconds)
            self._counters.add(metrics.PLAIN_STEP_TIME, plain * tokens / sequences)
