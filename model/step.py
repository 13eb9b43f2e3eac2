"""A step between its start and the moment when what it drew is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from model.executor import ForwardTimer
from model.request import Request
from model.sampler import Drawn
from model.scheduling.drafting import are_many
from model.scheduling.sequence import Scheduled, Sequence
from model.statistics import StepTiming


@dataclass(frozen=True)
class DraftRow:
    """A row for the sampler: a sequence as it will stand if its draft's first tokens turn out right."""

    sequence: Sequence
    draft: tuple[int, ...]

    @property
    def request(self) -> Request:
        return self.sequence.request

    @property
    def seed(self) -> int:
        return self.sequence.seed

    @property
    def output(self) -> list[int]:
        return [*self.sequence.output, *self.draft]

    @property
    def num_output(self) -> int:
        return self.sequence.num_output + len(self.draft)


def draft_rows(finishing: list[Scheduled]) -> list[DraftRow]:
    """What each row of logits is drawn for: a sequence as it stands, then with its draft's first tokens."""
    return [DraftRow(s.sequence, s.draft[:i]) for s in finishing for i in range(len(s.draft) + 1)]


def may_stay(plan: list[Scheduled]) -> bool:
    """Whether the next step can be prepared, and is worth it, before this one's tokens have been read.

    Whoever has a draft in it is not in the next one then.
    """
    return not are_many(sum(bool(s.draft) for s in plan), len(plan)) and not any(map(_needs_tokens, plan))


def _needs_tokens(scheduled: Scheduled) -> bool:
    """Whether what follows cannot be computed before this step's tokens, or logits, have been read."""
    sequence = scheduled.sequence
    return sequence.request.params.penalises or sequence.wants_prompt_logprobs


@dataclass
class DraftPasses:
    """What a draft model did before a step.

    drew: passes that drew tokens. seconds: until all had ended. caught_up: tokens that it computed of sequences which
    it had not drafted for just before. failed: memory was too little.
    """

    count: int = 0
    drew: int = 0
    seconds: float = 0.0
    caught_up: int = 0
    failed: bool = False


@dataclass(frozen=True)
class StepInFlight:
    """A step that was started.

    finishing: the sequences that it draws a token for. drawn: what it draws, in the rows of `draft_rows`; None where
    it draws nothing. stays: it is read after the next one was started. sequences, tokens: its size.
    ready_at: when its batch was built, by the performance counter, in seconds. timer: of its forward pass.
    passes: of a draft model, before it.
    """

    finishing: list[Scheduled]
    drawn: Drawn | None
    stays: bool
    sequences: int
    tokens: int
    ready_at: float
    timer: ForwardTimer
    passes: DraftPasses = field(default_factory=DraftPasses)

    def announce(self) -> None:
        """Let each sequence that is still there know in which row its next token is to come, or that it has to wait."""
        for scheduled, row in self.first_rows():
            if scheduled.draft:
                scheduled.sequence.in_check = True
            else:
                scheduled.sequence.awaited = row

    def first_rows(self) -> Iterator[tuple[Scheduled, int]]:
        """Of each sequence that is still there, the first of the rows that were drawn for it."""
        row = 0
        for scheduled in self.finishing:
            if not scheduled.sequence.gone:
                yield scheduled, row
            row += len(scheduled.draft) + 1

    @property
    def drafted(self) -> int:
        """Tokens of drafts that it checks."""
        return sum(len(scheduled.draft) for scheduled in self.finishing)

    @property
    def only_decodes(self) -> bool:
        return self.tokens == self.sequences + self.drafted == len(self.finishing) + self.drafted

    def timing(self, seconds: float, schedule: float) -> StepTiming:
        """Of the call that collected it. What ran while the next was prepared has cost no time of its own.

        seconds: of that call. schedule: those of them in which the next batch was chosen and built.
        """
        forward = min(self.timer.seconds(), seconds - schedule)
        rest = seconds - schedule - forward
        return StepTiming(self.sequences, self.tokens, seconds, schedule, forward, rest)
