"""Log-probabilities of a prompt's own tokens: which rows of a step predict them, and what their logits say."""

from __future__ import annotations

import torch

from model.request import TokenLogprobs
from model.sampler import token_logprobs
from model.scheduling.sequence import Scheduled


def predicting_positions(scheduled: Scheduled) -> range:
    """Positions in this chunk that predict a prompt token whose log-probability is wanted."""
    sequence = scheduled.sequence
    if not sequence.wants_prompt_logprobs:
        return range(0)
    return range(sequence.computed, min(sequence.computed + scheduled.count, sequence.prompt_length - 1))


def note_prompt_logprobs(plan: list[Scheduled], logits: torch.Tensor) -> None:
    """Add what the step says to each sequence that asks.

    logits [R, vocabulary]: of the plan's predicting positions in order, then others.
    """
    first = 0
    for scheduled in plan:
        positions = predicting_positions(scheduled)
        if not positions:
            continue
        sequence = scheduled.sequence
        targets = sequence.tokens[positions.start + 1 : positions.stop + 1]
        top = [sequence.request.params.prompt_logprobs or 0] * len(positions)
        found: list[TokenLogprobs] = token_logprobs(logits[first : first + len(positions)], targets, top)
        sequence.prompt_logprobs += found if sequence.prompt_logprobs else [None, *found]
        first += len(positions)
