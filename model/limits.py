"""How much one step may hold: what the scheduler keeps to, and what memory is set aside for."""

from __future__ import annotations

from dataclasses import dataclass

BATCHED_TOKENS = {"cpu": 512, "cuda": 2048}
"""Tokens in a step where nobody says: small enough on a CPU that a prefill chunk does not stall those who stream."""

SPECULATIVE_TOKENS = 8
"""Longest draft where nobody says."""

DRAFTED_ROWS = {"cpu": 12, "cuda": 64}
"""Tokens of a decode step up to which one more is nearly free: reading the weights takes longer than using them.
Drafts fill a step up to here and no further: where many decode at once, they would slow down everybody. On an H100, of
drafts that are all wrong, one sequence notices 2 % and eight 3 %; at 64 sequences drafts beyond that cost 13 to 16 %
unless most are right (benchmarks/results/gpu-h100.json)."""

DRAFTING_SEQUENCES = max(DRAFTED_ROWS.values()) // 2
"""That a draft model drafts for in one step, at most: each has two rows, its last token's and one draft's."""

DRAFT_PASS_TOKENS = {"cpu": 128, "cuda": 512}
"""Tokens of a draft model's pass. Those that it has not seen of a sequence, a prompt's for one, are computed in the
steps before its first draft, so many in each."""

INTER_TOKEN_LATENCY = {"cpu": 0.0, "cuda": 0.05}
"""Seconds of a step in which somebody decodes, where nobody says; 0: as many as it takes. On an H100 50 ms are some 900
prompt tokens of a model of 15.5B: less than half of a full step's time, at nearly its prompt tokens a second. On a CPU,
where a step of 512 takes long but chunks of 50 ms would compute a third less, first tokens come first."""

FREE_ROWS = {"cpu": 16, "cuda": 256}
"""Tokens of any step up to which one more is nearly free, as above; so the target never keeps prompts from them."""

LEAST_PROMPT_TOKENS = {"cpu": 16, "cuda": 64}
"""What the target leaves to prompts however many decode, so that first tokens come."""

PROMPT_ROWS = 256
"""Rows of logits in a step that predict the tokens of prompts whose log-probabilities are wanted: each takes half a
megabyte at StarCoder's vocabulary, while longer chunks than this make a prefill hardly faster."""


@dataclass(frozen=True)
class PrefillFloor:
    """Prompt tokens that a step may hold whatever they take. free_rows: decodes included. least: beside any decodes."""

    free_rows: int
    least: int

    @classmethod
    def on(cls, device: str) -> PrefillFloor:
        return cls(FREE_ROWS[device], LEAST_PROMPT_TOKENS[device])

    def tokens(self, decodes: int) -> int:
        return max(self.free_rows - decodes, self.least)


@dataclass(frozen=True)
class StepLimits:
    """sequences, tokens: drafts count as tokens. drafted_rows: of logits, for drafts. prompt_rows: at least 1."""

    sequences: int
    tokens: int
    drafted_rows: int = 0
    prompt_rows: int = PROMPT_ROWS

    @classmethod
    def on(
        cls, device: str, max_num_seqs: int, max_num_batched_tokens: int | None, speculative_tokens: int | None
    ) -> StepLimits:
        """On a device of this type, whose defaults stand for None."""
        tokens = BATCHED_TOKENS[device] if max_num_batched_tokens is None else max_num_batched_tokens
        draft = SPECULATIVE_TOKENS if speculative_tokens is None else speculative_tokens
        return cls(max_num_seqs, max(tokens, max_num_seqs), DRAFTED_ROWS[device] if draft else 0)

    @property
    def short_tokens(self) -> int:
        """Of a step, for prompts that end with them, while longer ones wait or run."""
        return self.tokens // 4

    @property
    def logit_rows(self) -> int:
        """Rows of logits at most: one that each sequence draws from, those of drafts, those of prompts."""
        return min(self.tokens, self.sequences + self.drafted_rows + self.prompt_rows)
