"""Log-probabilities of a prompt's own tokens: which rows of a step predict them, and what their logits say."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from model.request import TokenLogprobs
from model.sampler import token_logprobs
from model.scheduling.sequence import Scheduled, Sequence


def predicting_positions(sequence: Sequence, count: int) -> range:
    """Positions among the next `count` that predict a prompt token whose log-probability is wanted."""
    if not sequence.wants_prompt_logprobs:
        return range(0)
    return range(sequence.computed, min(sequence.computed + count, sequence.prompt_length - 1))


class PromptRows:
    """The rows of logits that a step has left for the prompts whose log-probabilities are wanted. left: so many."""

    def __init__(self, left: int) -> None:
        self.left = left

    def most(self, sequence: Sequence, count: int, taken: int = 0) -> int:
        """How many of the sequence's next `count` tokens may be computed, for all the rows that are left.

        taken: those that it has taken already, for the first of these tokens.
        """
        left = self.left + taken
        return count if len(predicting_positions(sequence, count)) <= left else left

    def take(self, sequence: Sequence, count: int) -> int:
        """For the sequence's next `count` tokens; how many rows that are."""
        taken = len(predicting_positions(sequence, count))
        self.left -= taken
        return taken


@dataclass(frozen=True)
class Note:
    """What a step says of some tokens of a sequence's prompt. Nothing changes before it is added."""

    sequence: Sequence
    found: list[TokenLogprobs]

    def add(self) -> None:
        known = self.sequence.prompt_logprobs
        self.sequence.prompt_logprobs += self.found if known else [None, *self.found]


def prompt_notes(plan: list[Scheduled], logits: torch.Tensor) -> list[Note]:
    """Of each sequence that asks, what the step says.

    logits [R, vocabulary]: of the plan's predicting positions in order, then others.
    """
    notes: list[Note] = []
    first = 0
    for scheduled in plan:
        positions = predicting_positions(scheduled.sequence, scheduled.count)
        if not positions:
            continue
        sequence = scheduled.sequence
        targets = sequence.tokens[positions.start + 1 : positions.stop + 1]
        top = [sequence.request.params.prompt_logprobs or 0] * len(positions)
        notes.append(Note(sequence, token_logprobs(logits[first : first + len(positions)], targets, top)))
        first += len(positions)
    return notes
