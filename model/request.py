"""What goes into the engine and what comes out: token ids, never text.

Plain `msgspec` structs, because they cross a process boundary at every step.
"""

from __future__ import annotations

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "abort"]
Failure = Literal["out_of_memory", "not_finite"]


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the tokens of one sequence are chosen. Validated by the API; the engine trusts it.

    temperature: 0 means greedy.
    top_k: 0 means the whole vocabulary.
    logprobs: how many alternatives to report a token; 0 reports the chosen token only.
    prompt_logprobs: the same for the prompt (`echo`); switches prefix-cache reads off for the sequence.
    seed: the same seed and logits give the same tokens; None: the engine draws one. Logits do not depend on what else
        is in the batch with our kernels on a CPU; elsewhere their last bits do.
    """

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def penalises(self) -> bool:
        """Whether a draw depends on which tokens came before."""
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0


LEAST_WEIGHT, MOST_WEIGHT = 0.001, 1000.0
"""Of a tenant. Between the two lies a million: who needs more of a difference wants a class."""


class Request(msgspec.Struct, frozen=True):
    """One sequence to generate. `n` completions of a prompt are `n` requests: they share its blocks.

    output_ids: the beginning of the output, where another engine has generated it already. This one goes on behind it
        as if it had drawn it itself: `max_tokens`, penalties and draws count from there. It answers the tokens that
        are new.
    is_piece: it is only the beginning of a prompt, computed ahead of it, and counts as no request.
    ahead: tokens of the prompt that such pieces have computed for it: it finds them, but was not spared the work.
    priority: lower runs first, of one tenant in one class. Equal ones run in order of arrival, but a prompt that ends
        with a step (most of it may be cached) has a quarter of that step before longer ones, and few may pass one for
        which there is no room.
    tenant: tenants who wait are served alike, in proportion to their weight. weight: `LEAST_WEIGHT` to `MOST_WEIGHT`;
        what lies beyond counts as the nearer of them.
    service_class: 0 (interactive) runs before 1 (standard), and that before 2 (batch).
    cache_root: only requests of the same one find each other's blocks.
    barred_ids: tokens that are not drawn, but for the model's end of text; log-probabilities know nothing of it.
    """

    request_id: str
    prompt_ids: list[int]
    params: SamplingParams = SamplingParams()
    priority: int = 0
    output_ids: list[int] = []
    is_piece: bool = False
    ahead: int = 0
    tenant: str = ""
    weight: float = 1.0
    service_class: int = 1
    cache_root: str = ""
    barred_ids: tuple[int, ...] = ()


class TokenLogprobs(msgspec.Struct, frozen=True):
    """Log-probability of one token under the unmodified model, with the best alternatives.

    top: (token id, log-probability), best first.
    """

    token_id: int
    logprob: float
    top: list[tuple[int, float]] = []


class Output(msgspec.Struct):
    """What one step added to one sequence.

    token_ids: the new tokens; a token that ended generation is the last of them.
    stop_token_id: the end-of-text or stop token that ended it; its text is not part of the completion.
    logprobs: one entry for each new token, where asked for.
    prompt_logprobs: on the first output only; the first prompt token has no prediction and is None.
    cached_tokens: prompt tokens that came from the prefix cache.
    queue_seconds: from arrival at the engine to the first step that ran the sequence.
    failure: beside "abort", why the engine ended a request that it had accepted.
    """

    request_id: str
    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    cached_tokens: int = 0
    queue_seconds: float = 0.0
    failure: Failure | None = None
