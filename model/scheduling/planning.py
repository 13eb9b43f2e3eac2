"""A step while it is planned."""

from __future__ import annotations

from dataclasses import dataclass, field

from model.limits import StepLimits
from model.scheduling.account import Account
from model.scheduling.fairness import cost
from model.scheduling.prompt_logprobs import PromptRows
from model.scheduling.sequence import Sequence

MOST_PASSES = 64
"""Sequences that may be admitted before one that does not fit and is no less important: enough that short ones do not
wait for it, few enough that it does not wait for ever."""


@dataclass
class Planned:
    """What scheduling a step changed ahead of its running.

    admitted: who left the queue; first: those of them for the first time. charged: accounts, and their counters before.
    published: blocks of sequences, by index.
    """

    admitted: list[Sequence] = field(default_factory=list)
    first: list[Sequence] = field(default_factory=list)
    charged: list[tuple[Account, int]] = field(default_factory=list)
    published: list[tuple[Sequence, int]] = field(default_factory=list)


class Step:
    """A step while it is planned. counts: tokens of each sequence; tokens: that are left to be given.

    held_up: the first that waits since it does not fit.
    """

    def __init__(self, limits: StepLimits) -> None:
        self.tokens = limits.tokens
        self.counts: dict[Sequence, int] = {}
        self.held_up: Sequence | None = None
        self._rows = PromptRows(limits.prompt_rows)
        self._rows_of: dict[Sequence, int] = {}

    def most(self, sequence: Sequence, count: int) -> int:
        """How many of the sequence's next `count` tokens may be computed, for all the rows of logits that are left."""
        if not sequence.wants_prompt_logprobs:
            return count
        return self._rows.most(sequence, count, self._rows_of.get(sequence, 0))

    def give(self, sequence: Sequence, count: int) -> None:
        """Let a sequence compute `count` tokens in all."""
        if sequence in self.counts:
            self.take_back(sequence)
        if not count:
            return
        self.counts[sequence] = count
        self.tokens -= count
        if sequence.wants_prompt_logprobs:
            self._rows_of[sequence] = self._rows.take(sequence, count)

    def give_one(self, sequence: Sequence) -> None:
        """Let a sequence that has nothing yet, and wants no rows of logits, compute one token."""
        self.counts[sequence] = 1
        self.tokens -= 1

    def take_back(self, sequence: Sequence) -> None:
        self.tokens += self.counts.pop(sequence, 0)
        self._rows.left += self._rows_of.pop(sequence, 0)

    def may_pass(self, sequence: Sequence) -> bool:
        """Whether a waiting sequence may be admitted before the one that is held up.

        Those of another tenant, as long as it would be their turn if that one had been admitted.
        """
        first = self.held_up
        if first is None:
            return True
        if first.passed >= MOST_PASSES or first.outranks(sequence):
            return False
        alike = sequence.service_class == first.service_class and sequence.account is not first.account
        return not alike or sequence.account.counter <= first.account.counter + cost(first)
