"""Which of the tokens that a step drew a sequence keeps, and whether it ends with them."""

from __future__ import annotations

import time

from model.request import FinishReason, Output
from model.sampler import NO_TOKEN, Sampled
from model.scheduling.sequence import Scheduled, Sequence


def accept(scheduled: Scheduled, sampled: Sampled, row: int, eos_token_ids: tuple[int, ...]) -> Output:
    """Append what was sampled from `row` on, as far as the draft was right.

    Row i of the sequence's rows is valid when the draft's first i tokens are what was sampled before it. The sequence
    ends with a `failure` where a valid row has no token.
    """
    sequence = scheduled.sequence
    sequence.awaited, sequence.in_check = None, False
    output = _empty_output(sequence)
    for drafted in (*scheduled.draft, None):
        token, logprobs = sampled.tokens[row], sampled.logprobs[row]
        if token == NO_TOKEN:
            output.finish_reason, output.failure = "abort", "not_finite"
            break
        sequence.tokens.append(token)
        output.token_ids.append(token)
        if output.logprobs is not None and logprobs is not None:
            output.logprobs.append(logprobs)
        output.finish_reason, output.stop_token_id = _finish_reason(sequence, token, eos_token_ids)
        if output.finish_reason is not None or token != drafted:
            break
        row += 1
    accepted = max(len(output.token_ids) - 1, 0)
    if sequence.blocks:  # it was not preempted since
        sequence.computed += accepted
    if sequence.speculator is not None and scheduled.draft:
        if not scheduled.by_model:
            sequence.speculator.learn(len(scheduled.draft), accepted)
        elif output.finish_reason is None:  # else what comes behind its end counts as wrong
            sequence.speculator.chance.learn(len(scheduled.draft), accepted)
    return output


def _empty_output(sequence: Sequence) -> Output:
    """For a sequence's next tokens; its first output says how it began, too."""
    params = sequence.request.params
    output = Output(sequence.request.request_id, logprobs=None if params.logprobs is None else [])
    if sequence.num_new == 0:
        output.cached_tokens = sequence.cached_tokens
        output.queue_seconds = (sequence.started_at or time.monotonic()) - sequence.arrived_at
        if params.prompt_logprobs is not None and sequence.num_output == 0:
            output.prompt_logprobs = sequence.prompt_logprobs or [None]
    return output


def _finish_reason(
    sequence: Sequence, token: int, eos_token_ids: tuple[int, ...]
) -> tuple[FinishReason | None, int | None]:
    params = sequence.request.params
    ends = token in params.stop_token_ids or (not params.ignore_eos and token in eos_token_ids)
    if ends and sequence.num_output > params.min_tokens:
        return "stop", token
    if len(sequence.tokens) >= sequence.limit:
        return "length", None
    return None, None
